// The program of the tests: answers HTTP on $PORT with its greeting; the path says what else it does.
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void on_term(int signal) { (void)signal; if (write(1, "bye\n", 4)) {} _exit(0); }

int main(void) {
    signal(SIGTERM, on_term);
    signal(SIGPIPE, SIG_IGN);
    const char *port = getenv("PORT"), *mode = getenv("MODE");
    if (mode && !strcmp(mode, "exit")) { printf("no reason to live\n"); fflush(stdout); return 7; }
    if (mode && !strcmp(mode, "silent")) { for (;;) pause(); }
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(port ? port : "8080")) };
    if (bind(fd, (void *)&address, sizeof address) || listen(fd, 128)) { perror("listen"); return 1; }
    if (write(1, "listening\n", 10)) {}
    for (;;) {
        int client = accept(fd, 0, 0);
        char request[4096];
        long length = read(client, request, sizeof request - 1);
        if (length > 0) {
            request[length] = 0;
            if (strstr(request, "GET /crash")) _exit(7);
            static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n";
            if (write(client, answer, sizeof answer - 1)) {}
        }
        close(client);
    }
}
