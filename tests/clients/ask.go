// A client that the tests of programs run, a static program of Go, which makes its system calls
// without a C library and has a resolver of its own: dials again and again, and prints the ports at
// which servers say that they were reached; or resolves a name again and again, and prints the
// addresses that it is told.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
)

func dial(address string) (string, error) {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	var port [2]byte
	if _, err := io.ReadFull(connection, port[:]); err != nil {
		return "", err
	}
	return strconv.Itoa(int(binary.BigEndian.Uint16(port[:]))), nil
}

func resolve(name string) (string, error) {
	found, err := net.DefaultResolver.LookupIP(context.Background(), "ip4", name)
	if err != nil {
		return "", err
	}
	return found[0].String(), nil
}

func main() {
	verbs := map[string]func(string) (string, error){"dial": dial, "resolve": resolve}
	if len(os.Args) != 4 || verbs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: ask dial ADDRESS:PORT TIMES | ask resolve NAME TIMES")
		os.Exit(2)
	}
	times, err := strconv.Atoi(os.Args[3])
	for ; err == nil && times > 0; times-- {
		var said string
		if said, err = verbs[os.Args[1]](os.Args[2]); err == nil {
			fmt.Println(said)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
