/* slow_storage: a storage that is far away. Answers GET and HEAD of files of one directory, whole or one range of them.
 *
 *   slow_storage PORT DIR
 *
 * The path says how: /LATENCY/RATE/ANYTHING/NAME is DIR/NAME; its answer begins LATENCY ms after the request, and no connection
 * brings more than RATE MB (10^6 bytes) a second, 0 being no limit. So one file is as many cold objects as are wanted. Where
 * ANYTHING begins with fail-N- one request in N gets a 503, at random, and with stall-N- an answer that begins 10 s late.
 *
 * It writes "+ PATH" as a request comes and "- PATH BYTES" as its answer ends: the bytes of the body that have left. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HEAD_MAX 8192
#define CHUNK 65536
#define STALL 10 /* s */
#define STACK (128 << 10)

static const char *dir;

/* What is asked. */
typedef struct {
    char method[8], path[512], name[256];
    double latency_ms, mb_per_sec;
    int fail_one_in, stall_one_in; /* 0: none */
    long long first, last; /* first < 0: the last bytes, last of them; both 0 and whole: all */
    int whole;
} question;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void sleep_until(double when)
{
    struct timespec t = { (time_t)when, (long)((when - (double)(time_t)when) * 1e9) };
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0) {
    }
}

/* Reads one request's head; 0 where the client has gone. */
static int read_head(int client, char *head)
{
    size_t len = 0;
    while (len < HEAD_MAX - 1) {
        ssize_t got = read(client, head + len, HEAD_MAX - 1 - len);
        if (got <= 0)
            return 0;
        len += (size_t)got;
        head[len] = 0;
        if (strstr(head, "\r\n\r\n"))
            return 1;
    }
    return 0;
}

/* Whether one in so many is it this time. */
static int happens(int one_in)
{
    return one_in > 0 && random() % one_in == 0;
}

static int parse(const char *head, question *q)
{
    const char *range = strcasestr(head, "\r\nRange: bytes=");
    if (sscanf(head, "%7s %511s", q->method, q->path) != 2)
        return 0;
    char kind[64];
    if (sscanf(q->path, "/%lf/%lf/%63[^/]/%255[^/]", &q->latency_ms, &q->mb_per_sec, kind, q->name) != 4)
        return 0;
    q->fail_one_in = q->stall_one_in = 0;
    if (sscanf(kind, "fail-%d-", &q->fail_one_in) != 1)
        sscanf(kind, "stall-%d-", &q->stall_one_in);
    q->whole = range == NULL;
    q->first = 0;
    q->last = -1;
    if (range && sscanf(range + strlen("\r\nRange: bytes="), "%lld-%lld", &q->first, &q->last) < 1)
        return 0;
    return 1;
}

/* Sends bytes of a file at the rate that is asked for; how many have left. */
static long long send_body(int client, int file, off_t at, long long left, const question *q)
{
    long long sent = 0;
    double due = now();
    while (left > 0) {
        size_t most = q->mb_per_sec > 0 && left > CHUNK ? CHUNK : (size_t)left;
        ssize_t n = sendfile(client, file, &at, most);
        if (n <= 0)
            break;
        sent += n;
        left -= n;
        if (q->mb_per_sec > 0)
            sleep_until(due += (double)n / (q->mb_per_sec * 1e6));
    }
    return sent;
}

static long long answer(int client, int file, const struct stat *st, const question *q)
{
    char head[512], range[128] = "";
    long long size = st->st_size, first = q->first, last = q->last;
    int n, status = q->whole ? 200 : 206;
    if (first < 0) {
        first = size + first > 0 ? size + first : 0;
        last = size - 1;
    } else if (last < 0 || last >= size) {
        last = size - 1;
    }
    if (first > last && !q->whole) {
        n = snprintf(head, sizeof head, "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n"
                                        "Content-Range: bytes */%lld\r\n\r\n", size);
        return send(client, head, (size_t)n, MSG_NOSIGNAL) == n ? 0 : -1;
    }
    if (!q->whole)
        snprintf(range, sizeof range, "Content-Range: bytes %lld-%lld/%lld\r\n", first, last, size);
    n = snprintf(head, sizeof head,
                 "HTTP/1.1 %d OK\r\nContent-Length: %lld\r\n%sETag: \"%llx-%llx\"\r\nAccept-Ranges: bytes\r\n"
                 "Last-Modified: Tue, 14 Nov 2023 22:13:20 GMT\r\nContent-Type: video/mp4\r\n\r\n",
                 status, last + 1 - first, range, size, (long long)st->st_mtime);
    if (send(client, head, (size_t)n, MSG_NOSIGNAL | MSG_MORE) != n)
        return -1;
    if (strcmp(q->method, "HEAD") == 0)
        return 0;
    long long sent = send_body(client, file, first, last + 1 - first, q);
    return sent == last + 1 - first ? sent : -sent - 1;
}

/* Answers a request; 0 where the connection is of no more use. */
static int serve_one(int client, const char *head)
{
    static const char slow_down[] = "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n";
    static const char missing[] = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    char path[1024];
    struct stat st;
    question q;
    if (!parse(head, &q))
        return send(client, missing, sizeof missing - 1, MSG_NOSIGNAL) > 0;
    dprintf(1, "+ %s\n", q.path);
    double begun = now();
    snprintf(path, sizeof path, "%s/%s", dir, q.name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    sleep_until(begun + q.latency_ms / 1e3 + (happens(q.stall_one_in) ? STALL : 0));
    long long sent = 0;
    if (happens(q.fail_one_in))
        sent = send(client, slow_down, sizeof slow_down - 1, MSG_NOSIGNAL) > 0 ? 0 : -1;
    else if (file < 0 || fstat(file, &st) != 0)
        sent = send(client, missing, sizeof missing - 1, MSG_NOSIGNAL) > 0 ? 0 : -1;
    else
        sent = answer(client, file, &st, &q);
    if (file >= 0)
        close(file);
    dprintf(1, "- %s %lld\n", q.path, sent < 0 ? -sent - 1 : sent);
    return sent >= 0;
}

static void *serve(void *argument)
{
    int client = (int)(long)argument;
    char head[HEAD_MAX];
    while (read_head(client, head) && serve_one(client, head)) {
    }
    close(client);
    return NULL;
}

int main(int argc, char **argv)
{
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    pthread_attr_t attributes;
    if (argc != 3) {
        fprintf(stderr, "slow_storage PORT DIR\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    dir = argv[2];
    address.sin_port = htons((uint16_t)atoi(argv[1]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) {
        perror("slow_storage");
        return 1;
    }
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (;;) {
        pthread_t thread;
        int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (client < 0)
            continue;
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (pthread_create(&thread, &attributes, serve, (void *)(long)client))
            close(client);
    }
}
