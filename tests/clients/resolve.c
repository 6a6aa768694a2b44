/*
 * A client that tests of name services run, built with musl and without shared libraries: resolves
 * a name again and again by its own resolver, and prints the addresses that it is told.
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct addrinfo wanted = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM }, *found;
	char text[INET_ADDRSTRLEN];
	int error, left;

	if (argc != 3) {
		fprintf(stderr, "usage: resolve HOST TIMES\n");
		return 2;
	}
	for (left = atoi(argv[2]); left > 0; left--) {
		error = getaddrinfo(argv[1], NULL, &wanted, &found);
		if (error != 0) {
			fprintf(stderr, "resolve %s: %s\n", argv[1], gai_strerror(error));
			return 1;
		}
		puts(inet_ntop(AF_INET, &((struct sockaddr_in *)found->ai_addr)->sin_addr, text,
			       sizeof(text)));
		freeaddrinfo(found);
	}
	return 0;
}
