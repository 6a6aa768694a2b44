/*
 * A client that the test of static programs runs, built with musl and without shared libraries:
 * resolves a name by its own resolver, connects, and prints the port at which the server says that
 * it was reached.
 */
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int fail(const char *what)
{
	perror(what);
	return 1;
}

int main(int argc, char **argv)
{
	struct addrinfo wanted = { .ai_socktype = SOCK_STREAM }, *found;
	unsigned char port[2];
	int error, fd;

	if (argc != 3) {
		fprintf(stderr, "usage: dial HOST PORT\n");
		return 2;
	}
	error = getaddrinfo(argv[1], argv[2], &wanted, &found);
	if (error != 0) {
		fprintf(stderr, "resolve %s: %s\n", argv[1], gai_strerror(error));
		return 1;
	}
	fd = socket(found->ai_family, found->ai_socktype, found->ai_protocol);
	if (fd < 0)
		return fail("socket");
	if (connect(fd, found->ai_addr, found->ai_addrlen) != 0)
		return fail("connect");
	if (recv(fd, port, sizeof(port), MSG_WAITALL) != sizeof(port))
		return fail("read");
	printf("%d\n", port[0] << 8 | port[1]);
	return 0;
}
