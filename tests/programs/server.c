/* A server whose memory does not come down: each request builds a reply in buffers that grow, and
 * leaves a session behind.
 *
 *     sessions   a few hundred bytes each, most of them live for long
 *     replies    100 KB to 4 MB, doubled by realloc, gone with the request
 *
 * Once a large reply was freed, replies come from the break, and each leaves a session above it.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { REQUESTS = 700, SESSIONS = 256 };

static uint64_t state = 42;

static uint32_t chance(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

int main(void)
{
    static char *session[SESSIONS];
    char *late[16] = {0};
    for (int request = 0; request < REQUESTS; request++) {
        size_t size = 100000 << chance(6);
        char *reply = malloc(16384);
        for (size_t room = 16384; room < size; room *= 2) {
            reply = realloc(reply, 2 * room);
            memset(reply + room, 1, room);
        }
        uint32_t place = chance(SESSIONS);
        free(session[place]);
        session[place] = malloc(200 + chance(800));
        memset(session[place], 1, 200);
        place = chance(16); /* a slow client holds its reply for a while */
        free(late[place]);
        late[place] = reply;
    }
    for (int i = 0; i < 16; i++)
        free(late[i]);
    return 0;
}
