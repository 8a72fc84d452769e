/* The limit of fan-out: a prebuilt frame and a bare loop of send(), nothing else. Port from PORT.
 *
 * Every connection that asks for an upgrade gets one (without the hash that a browser would check) and a greeting;
 * any frame from any of them has the event sent to all.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 65536, EVENTS = 1024 };
static int subscribers[MOST];
static int place_of[MOST];
static int count = 0;

static size_t frame(unsigned char *out, const char *text) {
    size_t size = strlen(text), head = 2;
    out[0] = 0x81;
    if (size < 126) {
        out[1] = (unsigned char)size;
    } else {
        out[1] = 126;
        out[2] = (unsigned char)(size >> 8);
        out[3] = (unsigned char)size;
        head = 4;
    }
    memcpy(out + head, text, size);
    return head + size;
}

/* The event that a frame asks for; the load generator's mask is all zeros, so its status can be read as it is. */
static const char *event_of(char *data, size_t size) {
    static char text[400];
    static const char key[] = "\"status\": \"";
    data[size] = 0;
    const char *status = memmem(data, size, key, sizeof key - 1);
    snprintf(text, sizeof text,
        "{\"type\":\"bounty.status\",\"id\":\"00000000-0000-4000-8400-000000000000\",\"status\":\"%.*s\","
        "\"timestamp\":\"2026-01-02T12:00:00.000Z\",\"eventId\":123456}",
        status ? (int)strcspn(status + sizeof key - 1, "\"") : 0, status ? status + sizeof key - 1 : "");
    return text;
}

static void forget(int fd) {
    if (place_of[fd]) {
        int last = subscribers[--count];
        subscribers[place_of[fd] - 1] = last;
        place_of[last] = place_of[fd];
        place_of[fd] = 0;
    }
    close(fd);
}

int main(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    signal(SIGPIPE, SIG_IGN);

    unsigned char event[512], greeting[512];
    size_t greeting_size = frame(greeting, "{\"type\":\"connection\"}");
    const char *upgraded =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n";

    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(getenv("PORT")))};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("send_loop");
        return 1;
    }
    int poll = epoll_create1(0);
    struct epoll_event interest = {.events = EPOLLIN, .data.fd = listener}, ready[EVENTS];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &interest);
    char data[8192];
    for (;;) {
        int number = epoll_wait(poll, ready, EVENTS, -1);
        for (int i = 0; i < number; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener) {
                int peer = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (peer >= 0 && peer < MOST) {
                    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
                    interest.data.fd = peer;
                    epoll_ctl(poll, EPOLL_CTL_ADD, peer, &interest);
                }
                continue;
            }
            ssize_t got = recv(fd, data, sizeof data - 1, 0);
            if (got <= 0) {
                forget(fd);
            } else if (data[0] == 'G') {
                send(fd, upgraded, strlen(upgraded), 0);
                send(fd, greeting, greeting_size, 0);
                subscribers[count++] = fd;
                place_of[fd] = count;
            } else {
                size_t event_size = frame(event, event_of(data, (size_t)got));
                for (int j = 0; j < count; j++) send(subscribers[j], event, event_size, 0);
            }
        }
    }
}
