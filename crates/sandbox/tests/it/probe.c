// The program inside the sandboxes of the tests: one word says what it does.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void show(const char *path) {
    char text[65536];
    int fd = open(path, O_RDONLY);
    if (fd < 0) { printf("%s: %s\n", path, strerror(errno)); return; }
    for (ssize_t n; (n = read(fd, text, sizeof text)) > 0;) { fflush(stdout); if (write(1, text, n) < 0) exit(9); }
    close(fd);
}

static void on_term(int signal) { (void)signal; static const char text[] = "bye\n"; if (write(1, text, 4)) {} _exit(3); }

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *verb = argc > 1 ? argv[1] : "hello";
    if (!strcmp(verb, "hello")) { puts("hello"); fprintf(stderr, "oops\n"); return 0; }
    if (!strcmp(verb, "env")) { for (char **e = environ; *e; e++) puts(*e); char cwd[256]; printf("cwd %s\n", getcwd(cwd, 256)); char name[65]; gethostname(name, 65); printf("host %s\n", name); return 0; }
    if (!strcmp(verb, "show")) { for (int i = 2; i < argc; i++) show(argv[i]); return 0; }
    if (!strcmp(verb, "write")) {
        for (int i = 2; i < argc; i++) {
            int fd = open(argv[i], O_WRONLY | O_CREAT, 0644);
            if (fd >= 0 && write(fd, "x", 1) == 1) printf("%s: written\n", argv[i]); else printf("%s: %s\n", argv[i], strerror(errno));
        }
        return 0;
    }
    if (!strcmp(verb, "stat")) {
        for (int i = 2; i < argc; i++) {
            struct stat s;
            if (stat(argv[i], &s)) printf("%s: %s\n", argv[i], strerror(errno)); else printf("%s: %o %u:%u %llu\n", argv[i], s.st_mode, s.st_uid, s.st_gid, (unsigned long long)s.st_rdev);
        }
        return 0;
    }
    if (!strcmp(verb, "fds")) { for (int i = 0; i < 1024; i++) if (fcntl(i, F_GETFD) >= 0) printf("fd %d\n", i); return 0; }
    if (!strcmp(verb, "calls")) {
        printf("unshare %s\n", unshare(CLONE_NEWUSER) ? strerror(errno) : "done");
        printf("clone3 %s\n", syscall(435, 0, 0) < 0 ? strerror(errno) : "done");
        printf("io_uring %s\n", syscall(425, 1, 0) < 0 ? strerror(errno) : "done");
        printf("getpid %d\n", getpid());
        return 0;
    }
    if (!strcmp(verb, "exit")) return atoi(argv[2]);
    if (!strcmp(verb, "abort")) abort();
    if (!strcmp(verb, "term")) { signal(SIGTERM, on_term); puts("ready"); for (;;) pause(); }
    if (!strcmp(verb, "stubborn")) { signal(SIGTERM, SIG_IGN); puts("ready"); for (;;) pause(); }
    if (!strcmp(verb, "sleep")) { puts("ready"); for (;;) pause(); }
    if (!strcmp(verb, "eat")) { for (;;) { char *p = malloc(1 << 20); memset(p, 1, 1 << 20); } }
    if (!strcmp(verb, "bomb")) {
        int made = 0;
        for (int i = 0; i < 1000; i++) { pid_t pid = fork(); if (pid == 0) { for (;;) pause(); } if (pid < 0) { printf("made %d then %s\n", made, strerror(errno)); break; } made++; }
        for (;;) pause();
    }
    if (!strcmp(verb, "spam")) { int n = atoi(argv[2]); for (int i = 0; i < n; i++) printf("line %d of much text that fills the log\n", i); return 0; }
    return 99;
}
