/* Starts programs for a large process in User-Mode-Linux: see launcher.py.
 *
 * A request on descriptor 0 is a struct request with the descriptors, then its strings: the working directory, the
 * paths to try, the arguments, the environment; then where each of the program's descriptors is to be. The answer is
 * the id of the process, which is a child of who asks; negative: the number of the error.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE 0
#define HIGH 256 /* where descriptors wait until those below are closed */
#define MOST 250

struct request {
    uint32_t size, paths, arguments, variables, descriptors, session;
};
enum { NET, MOUNT, REPORT, FIRST }; /* what the first descriptors are */

static struct request request;
static char **strings;
static int32_t *targets;
static int received[MOST];
static struct stat own_mounts;

static void report(int line)
{
    char text[32];
    (void)!write(line, text, (size_t)snprintf(text, sizeof text, "OSError:%X:", errno));
    _exit(255);
}

/* Shares its memory with the launcher, which waits until it is another program. */
static int program(void *unused)
{
    char *directory = strings[0], **path = strings + 1, **arguments = path + request.paths + 1;
    char **environment = arguments + request.arguments + 1;
    struct stat mounts;
    int kept[MOST], failure = ENOENT;

    (void)unused;
    for (uint32_t n = 0; n < request.descriptors; n++)
        if ((kept[n] = fcntl(received[n], F_DUPFD_CLOEXEC, HIGH)) < 0)
            report(received[REPORT]);
    close_range(0, HIGH - 1, 0);
    if (setns(kept[NET], CLONE_NEWNET) || fstat(kept[MOUNT], &mounts))
        report(kept[REPORT]);
    if (mounts.st_ino != own_mounts.st_ino && setns(kept[MOUNT], CLONE_NEWNS))
        report(kept[REPORT]);
    for (uint32_t n = FIRST; n < request.descriptors; n++)
        if (dup2(kept[n], targets[n]) < 0)
            report(kept[REPORT]);
    if (chdir(directory))
        report(kept[REPORT]);
    if (request.session)
        setsid();
    for (; *path; path++) {
        execve(*path, arguments, environment);
        if (errno != ENOENT && errno != ENOTDIR)
            failure = errno;
    }
    errno = failure;
    report(kept[REPORT]);
    return 255;
}

/* Takes `count` strings, and ends their list. */
static char *take(char ***list, uint32_t count, char *text)
{
    for (; count; count--, text += strlen(text) + 1)
        *(*list)++ = text;
    *(*list)++ = NULL;
    return text;
}

static int receive(char **body)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(MOST * sizeof(int))];
    } control;
    struct iovec whole = {&request, sizeof request};
    struct msghdr message = {.msg_iov = &whole, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};

    if (recvmsg(LINE, &message, MSG_WAITALL | MSG_CMSG_CLOEXEC) != sizeof request)
        return 0;
    memcpy(received, CMSG_DATA(CMSG_FIRSTHDR(&message)), request.descriptors * sizeof(int));
    *body = malloc(request.size);
    strings = malloc((4 + request.paths + request.arguments + request.variables) * sizeof *strings);
    return *body && strings && recv(LINE, *body, request.size, MSG_WAITALL) == (ssize_t)request.size;
}

int main(void)
{
    static char stack[65536] __attribute__((aligned(16)));
    char *body;

    stat("/proc/self/ns/mnt", &own_mounts);
    while (receive(&body)) {
        char **list = strings, *text = body + request.descriptors * sizeof *targets;
        targets = (int32_t *)body;
        *list++ = text;
        text = take(&list, request.paths, text + strlen(text) + 1);
        text = take(&list, request.arguments, text);
        take(&list, request.variables, text);
        int32_t answer = clone(program, stack + sizeof stack, CLONE_VM | CLONE_VFORK | CLONE_PARENT | SIGCHLD, NULL);
        if (answer < 0)
            answer = -errno;
        for (uint32_t n = 0; n < request.descriptors; n++)
            close(received[n]);
        free(strings);
        free(body);
        if (write(LINE, &answer, sizeof answer) != sizeof answer)
            break;
    }
    return 0;
}
