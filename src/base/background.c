/* background.c - a thread with one place for work. See background.h. */
#include "background.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

struct background {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t news;
    void (*work)(void *); /* NULL: idle */
    void *argument;
    bool closing;
};

static void *serve(void *of) {
    struct background *background = of;
    pthread_mutex_lock(&background->mutex);
    for (;;) {
        while (!background->work && !background->closing)
            pthread_cond_wait(&background->news, &background->mutex);
        if (!background->work) break;
        pthread_mutex_unlock(&background->mutex);
        background->work(background->argument);
        pthread_mutex_lock(&background->mutex);
        background->work = NULL;
        pthread_cond_broadcast(&background->news);
    }
    pthread_mutex_unlock(&background->mutex);
    return NULL;
}

bool background_open(struct background **opened, const char *name, struct fault *fault) {
    struct background *background = check_alloc(1, sizeof *background);
    pthread_cond_init(&background->news, NULL);
    pthread_mutex_init(&background->mutex, NULL);
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&background->thread, NULL, serve, background);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        pthread_cond_destroy(&background->news);
        pthread_mutex_destroy(&background->mutex);
        free(background);
        return fault_world(fault, "cannot start a thread: %s", strerror(error));
    }
    pthread_setname_np(background->thread, name);
    *opened = background;
    return true;
}

void background_begin(struct background *background, void (*work)(void *), void *argument) {
    pthread_mutex_lock(&background->mutex);
    REQUIRE(!background->work, "two pieces of work at a time");
    background->work = work;
    background->argument = argument;
    pthread_cond_broadcast(&background->news);
    pthread_mutex_unlock(&background->mutex);
}

bool background_idle(struct background *background) {
    pthread_mutex_lock(&background->mutex);
    bool idle = !background->work;
    pthread_mutex_unlock(&background->mutex);
    return idle;
}

void background_close(struct background *background) {
    if (!background) return;
    pthread_mutex_lock(&background->mutex);
    background->closing = true;
    pthread_cond_broadcast(&background->news);
    pthread_mutex_unlock(&background->mutex);
    pthread_join(background->thread, NULL);
    pthread_cond_destroy(&background->news);
    pthread_mutex_destroy(&background->mutex);
    free(background);
}
