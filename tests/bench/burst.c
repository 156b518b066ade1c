/* burst: clients that ask at one instant, one request each, and hold what comes against the file.
 *
 *   burst PORT PATH FILE CLIENTS [FIRST LENGTH STRIDE]
 *
 * With FIRST, client n asks for LENGTH bytes from FIRST + n * STRIDE. Prints a line of JSON: answers that are wrong (in status, length
 * or a byte), answers that are partial, and the slowest first byte of a body and the slowest end, in ms. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define CLIENTS_MAX 1024
#define BUFFER_LEN 65536
#define STACK (256 << 10)
#define TIMEOUT_SECS 120

/* One client, and what came of its request. */
typedef struct {
    long long first;
    int status, wrong;
    double first_ms, ms;
} client;

static const char *path;
static struct sockaddr_in server = { .sin_family = AF_INET };
static const char *file;
static long long file_len, length;
static pthread_barrier_t start;

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int dial(void)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval timeout = { TIMEOUT_SECS, 0 };
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    if (connect(fd, (struct sockaddr *)&server, sizeof server) == 0)
        return fd;
    close(fd);
    return -1;
}

static int ask(int fd, const client *c)
{
    char head[1024], range[80] = "";
    if (length > 0)
        snprintf(range, sizeof range, "Range: bytes=%lld-%lld\r\n", c->first, c->first + length - 1);
    int n = snprintf(head, sizeof head, "GET %s HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n%s\r\n", path, range);
    return send(fd, head, (size_t)n, MSG_NOSIGNAL) == n;
}

/* Whether bytes are those of the file from `at`. */
static int is_right(const char *bytes, size_t len, long long at)
{
    return at >= 0 && at + (long long)len <= file_len && memcmp(bytes, file + at, len) == 0;
}

/* Reads the answer to its end; whether it is right. */
static int read_answer(int fd, client *c, double begun)
{
    static _Thread_local char buffer[BUFFER_LEN + 1];
    char *body = NULL;
    size_t held = 0;
    ssize_t n;
    while (body == NULL) {
        if (held == BUFFER_LEN || (n = read(fd, buffer + held, BUFFER_LEN - held)) <= 0)
            return 0;
        held += (size_t)n;
        buffer[held] = 0;
        body = strstr(buffer, "\r\n\r\n");
    }
    body += 4;
    c->status = atoi(buffer + strlen("HTTP/1.1 "));
    if (c->status != 200 && c->status != 206)
        return 0;
    long long at = c->status == 206 ? c->first : 0, end = c->status == 206 ? at + length : file_len;
    size_t len = held - (size_t)(body - buffer);
    int right = is_right(body, len, at);
    at += (long long)len;
    c->first_ms = len > 0 ? now_ms() - begun : 0;
    while (right && at < end && (n = read(fd, buffer, BUFFER_LEN)) > 0) {
        if (c->first_ms == 0)
            c->first_ms = now_ms() - begun;
        right = is_right(buffer, (size_t)n, at);
        at += n;
    }
    return right && at == end;
}

static void *run(void *argument)
{
    client *c = argument;
    int fd = dial();
    pthread_barrier_wait(&start);
    double begun = now_ms();
    c->wrong = fd < 0 || !ask(fd, c) || !read_answer(fd, c, begun);
    c->ms = now_ms() - begun;
    if (fd >= 0)
        close(fd);
    return NULL;
}

static int map_file(const char *name)
{
    struct stat st;
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0)
        return 0;
    file_len = st.st_size;
    file = mmap(NULL, (size_t)file_len, PROT_READ, MAP_SHARED, fd, 0);
    return file != MAP_FAILED;
}

int main(int argc, char **argv)
{
    static client clients[CLIENTS_MAX];
    static pthread_t threads[CLIENTS_MAX];
    pthread_attr_t attributes;
    int count = argc > 4 ? atoi(argv[4]) : 0;
    if ((argc != 5 && argc != 8) || count < 1 || count > CLIENTS_MAX || !map_file(argv[3])) {
        fprintf(stderr, "burst PORT PATH FILE CLIENTS [FIRST LENGTH STRIDE]\n");
        return 2;
    }
    server.sin_port = htons((uint16_t)atoi(argv[1]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    path = argv[2];
    length = argc == 8 ? atoll(argv[6]) : 0;
    pthread_barrier_init(&start, NULL, (unsigned)count);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    for (int i = 0; i < count; i++) {
        clients[i].first = argc == 8 ? atoll(argv[5]) + i * atoll(argv[7]) : 0;
        if (pthread_create(&threads[i], &attributes, run, &clients[i]))
            return 1;
    }
    client sum = { 0 };
    int partial = 0;
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        sum.wrong += clients[i].wrong;
        partial += clients[i].status == 206;
        sum.first_ms = clients[i].first_ms > sum.first_ms ? clients[i].first_ms : sum.first_ms;
        sum.ms = clients[i].ms > sum.ms ? clients[i].ms : sum.ms;
    }
    printf("{\"clients\":%d,\"wrong\":%d,\"partial\":%d,\"first_ms\":%.3f,\"ms\":%.3f}\n", count, sum.wrong, partial,
           sum.first_ms, sum.ms);
    return 0;
}
