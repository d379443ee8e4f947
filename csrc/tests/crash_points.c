/* crash_points: kills a process at every point, and at pairs of points.
 *
 *   crash_points                    each point of each process, alone
 *   crash_points --pairs            and, after it, each point of those that recover
 *   crash_points --pairs --stride 50 --seed 3     a sample of these pairs
 *   crash_points --every 8          an eighth of all runs; some points are then not covered
 *   crash_points --run block,restart,source:ring.c:56:1,sink:queue.c:54:1
 *
 * Ends with status 1 when a run went wrong, or no process was killed at some point.
 */
#include "crash.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define JOBS_MOST 64u
#define PROBES 4u /* deaths per victim, to find out which points are passed afterwards */
#define MS 1000000u

/* Block: only a crash loses anything. Mixed: one branch is real-time, the other lossless,
 * but what waits there is taken back when its sender dies.
 * Tight: slots are short, the sender does not wait for long, and the sink ends early.
 * Resumes: as block, and the death of a source loses nothing. */
const pshm_crash_graph pshm_crash_graphs[] = {
    {.name = "block",
     .edge = {[TO_MIDDLE] = {PSHM_POLICY_BLOCK, 2, PSHM_FOREVER},
              [TO_SINK] = {PSHM_POLICY_BLOCK, 1, PSHM_FOREVER},
              [FORWARDED] = {PSHM_POLICY_BLOCK, 1, PSHM_FOREVER},
              [TO_LOCAL] = {PSHM_POLICY_DROP_OLDEST, 2, PSHM_FOREVER}},
     .slots = {5, 3},
     .messages = {4, 2}},
    {.name = "mixed",
     .edge = {[TO_MIDDLE] = {PSHM_POLICY_DROP_OLDEST, 1, PSHM_FOREVER},
              [TO_SINK] = {PSHM_POLICY_BLOCK, 2, PSHM_FOREVER},
              [FORWARDED] = {PSHM_POLICY_DROP_OLDEST, 2, PSHM_FOREVER},
              [TO_LOCAL] = {PSHM_POLICY_DROP_NEWEST, 1, PSHM_FOREVER}},
     .slots = {6, 4},
     .messages = {4, 3},
     .takes_back = true},
    {.name = "tight",
     .edge = {[TO_MIDDLE] = {PSHM_POLICY_DROP_OLDEST, 2, PSHM_FOREVER},
              [TO_SINK] = {PSHM_POLICY_BLOCK, 1, MS},
              [FORWARDED] = {PSHM_POLICY_DROP_NEWEST, 1, PSHM_FOREVER},
              [TO_LOCAL] = {PSHM_POLICY_DROP_OLDEST, 1, PSHM_FOREVER}},
     .slots = {3, 2},
     .messages = {2, 2},
     .sink_takes = 3},
    {.name = "resumes",
     .edge = {[TO_MIDDLE] = {PSHM_POLICY_BLOCK, 2, PSHM_FOREVER},
              [TO_SINK] = {PSHM_POLICY_BLOCK, 1, PSHM_FOREVER},
              [FORWARDED] = {PSHM_POLICY_BLOCK, 1, PSHM_FOREVER},
              [TO_LOCAL] = {PSHM_POLICY_DROP_OLDEST, 2, PSHM_FOREVER}},
     .slots = {5, 3},
     .messages = {4, 2},
     .resumes = true},
};
const uint32_t pshm_crash_graph_count = sizeof pshm_crash_graphs / sizeof pshm_crash_graphs[0];

static const char *const actor_name[] = {"source", "middle", "sink", "launcher"};
static const pshm_crash_kill no_kill = {.actor = NOBODY};

static struct {
    bool pairs;
    uint64_t stride;
    uint64_t every;
    uint64_t seed;
    uint32_t jobs;
    char *run; /* the one run to make, NULL for all */
    uint64_t times;
} option = {.stride = 1, .every = 1, .seed = 1, .jobs = 4, .times = 1};

typedef struct plan {
    uint64_t count;
    uint64_t room;
    pshm_crash_scenario *scenario;
} plan;

/* What the workers have found, in memory that they share. */
static struct {
    _Atomic uint64_t next;
    _Atomic uint64_t passed;
    _Atomic uint64_t failed;
    _Atomic uint64_t both; /* runs with two deaths */
    _Atomic uint32_t covered[ACTORS][PSHM_CRASH_POINTS_MOST];
} * found;

/* How often each point is passed: undisturbed, and after each victim's burial. */
typedef uint32_t pass_counts[ACTORS][PSHM_CRASH_POINTS_MOST];
static pass_counts undisturbed;
static pass_counts after[FLOWS];

static void add(plan *all, uint32_t graph, bool final, pshm_crash_kill first,
                pshm_crash_kill second) {
    if (all->count == all->room) {
        all->room = all->room * 2 + 1024;
        all->scenario = realloc(all->scenario, all->room * sizeof *all->scenario);
        CHECK(all->scenario != NULL, "no memory");
    }
    all->scenario[all->count++] =
        (pshm_crash_scenario){.graph = graph, .final = final, .kill = {first, second}};
}

static void print_failure(const pshm_crash_scenario *scenario) {
    char text[1024];
    int at =
        snprintf(text, sizeof text, "FAILED --run %s,%s", pshm_crash_graphs[scenario->graph].name,
                 scenario->final ? "final" : "restart");
    for (uint32_t n = 0; n < 2; n++) {
        const pshm_crash_kill *kill = &scenario->kill[n];
        if (kill->actor == NOBODY) continue;
        const pshm_point_site *site = pshm_crash_point(kill->point);
        at += snprintf(text + at, sizeof text - (size_t)at, ",%s:%s:%ld:%u",
                       actor_name[kill->actor], site->file, site->line, kill->pass);
    }
    snprintf(text + at, sizeof text - (size_t)at, "\n       %s\n",
             pshm_crash_here.world->failure);
    fputs(text, stdout);
    fflush(stdout);
}

/* Makes one run, and adds what it shows to the findings. */
static bool try(const pshm_crash_scenario *scenario) {
    const pshm_crash_world *world = pshm_crash_here.world;
    bool good = pshm_crash_run(scenario);
    for (uint32_t n = 0; n < 2; n++)
        if (world->killed[n])
            found->covered[scenario->kill[n].actor][scenario->kill[n].point] = 1;
    if (world->killed[0] && world->killed[1]) found->both++;
    if (good)
        found->passed++;
    else
        found->failed++;
    if (!good) print_failure(scenario);
    return good;
}

/* ---- which runs to make ---------------------------------------------------------------- */

static void note_passes(pass_counts counts, uint32_t phase) {
    for (uint32_t actor = 0; actor < ACTORS; actor++)
        for (uint32_t point = 0; point < pshm_crash_points(); point++) {
            uint32_t passes = pshm_crash_here.world->passes[phase][actor][point];
            if (passes > counts[actor][point]) counts[actor][point] = passes;
        }
}

static uint64_t hash(uint64_t a, uint64_t b, uint64_t c) {
    return pshm_crash_mix(option.seed + pshm_crash_mix(a << 40 ^ b << 20 ^ c));
}

/* A pass of the point: not the first one, if there are more. */
static uint32_t later_pass(uint32_t actor, uint32_t point, uint64_t salt) {
    uint32_t passes = undisturbed[actor][point];
    return passes < 2 ? 1 : 2 + (uint32_t)(hash(actor, point, salt) % (passes - 1));
}

/* A death of the victim at one of its points, chosen by chance. */
static pshm_crash_kill any_kill(uint32_t victim, uint64_t salt) {
    for (uint64_t n = 0;; n++) {
        uint32_t point = (uint32_t)(hash(victim, salt, n) % pshm_crash_points());
        if (undisturbed[victim][point] > 4)
            return (pshm_crash_kill){victim, point, later_pass(victim, point, n)};
    }
}

/* Finds out which process passes which points, undisturbed and after each death. */
static void explore(uint32_t graph) {
    memset(undisturbed, 0, sizeof undisturbed);
    memset(after, 0, sizeof after);
    for (uint32_t n = 0; n < PROBES; n++) {
        try(&(pshm_crash_scenario){.graph = graph, .kill = {no_kill, no_kill}});
        note_passes(undisturbed, 0);
    }
    for (uint32_t victim = 0; victim < FLOWS; victim++)
        for (uint32_t n = 0; n < 2 * PROBES; n++) {
            try(&(pshm_crash_scenario){
                .graph = graph, .final = n % 2 != 0, .kill = {any_kill(victim, n), no_kill}});
            note_passes(after[victim], 1);
        }
}

static void plan_singles(plan *all, uint32_t graph) {
    for (uint32_t actor = 0; actor < ACTORS; actor++)
        for (uint32_t point = 0; point < pshm_crash_points(); point++) {
            if (undisturbed[actor][point] == 0) continue;
            pshm_crash_kill first = {actor, point, 1};
            pshm_crash_kill later = {actor, point, later_pass(actor, point, 0)};
            add(all, graph, false, first, no_kill);
            if (later.pass > 1) add(all, graph, false, later, no_kill);
            if (actor != LAUNCHER) add(all, graph, true, later, no_kill);
        }
}

/* For points that only recovery passes: one death somewhere, and a second one there. */
static void plan_recoverers(plan *all, uint32_t graph) {
    for (uint32_t victim = 0; victim < FLOWS; victim++)
        for (uint32_t actor = 0; actor < ACTORS; actor++)
            for (uint32_t point = 0; point < pshm_crash_points(); point++) {
                if (undisturbed[actor][point] != 0 || after[victim][actor][point] == 0) continue;
                for (uint32_t n = 0; n < 2 * PROBES; n++)
                    add(all, graph, n % 2 != 0, any_kill(victim, n),
                        (pshm_crash_kill){actor, point, 1});
            }
}

static bool is_covered(uint32_t point) {
    uint32_t actors = 0;
    for (uint32_t actor = 0; actor < ACTORS; actor++) actors += found->covered[actor][point];
    return actors != 0;
}

/* The same again for points that were passed by chance only, and not when somebody was to die. */
static void plan_uncovered(plan *all, uint32_t graph) {
    for (uint32_t point = 0; point < pshm_crash_points(); point++)
        for (uint32_t victim = 0; victim < FLOWS && !is_covered(point); victim++)
            for (uint32_t actor = 0; actor < ACTORS; actor++)
                for (uint32_t n = 0; n < 16 * PROBES; n++)
                    if (actor == LAUNCHER || after[victim][actor][point] != 0)
                        add(all, graph, n % 4 == 0, any_kill(victim, 1000 + n),
                            (pshm_crash_kill){actor, point, 1});
}

static void plan_pairs(plan *all, uint32_t graph) {
    uint32_t points = pshm_crash_points();
    for (uint32_t victim = 0; victim < FLOWS; victim++)
        for (uint32_t at = 0; at < points; at++) {
            if (undisturbed[victim][at] == 0) continue;
            for (uint32_t n = 0; n < ACTORS * points; n++) {
                uint32_t actor = n / points, point = n % points;
                uint64_t chance = hash(victim * points + at, n, graph);
                if (after[victim][actor][point] == 0 || chance % option.stride != 0) continue;
                chance /= option.stride;
                uint32_t pass = later_pass(victim, at, chance);
                add(all, graph, chance % 4 == 0, (pshm_crash_kill){victim, at, pass},
                    (pshm_crash_kill){actor, point, 1 + (uint32_t)(chance >> 8) % 2});
            }
        }
}

/* Keeps one in `every` runs, in equal steps. */
static void thin_out(plan *all) {
    uint64_t kept = 0;
    for (uint64_t n = option.seed % option.every; n < all->count; n += option.every)
        all->scenario[kept++] = all->scenario[n];
    all->count = kept;
}

/* ---- the runs -------------------------------------------------------------------------- */

static void work(const plan *all) {
    pshm_crash_open();
    for (;;) {
        uint64_t n = atomic_fetch_add(&found->next, 1);
        if (n >= all->count) return;
        try(&all->scenario[n]);
    }
}

static void try_all(const plan *all) {
    pid_t driver = getpid();
    atomic_store(&found->next, 0);
    fflush(stdout);
    for (uint32_t n = 0; n < option.jobs; n++) {
        pid_t worker = fork();
        CHECK(worker >= 0, "no process");
        if (worker > 0) continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != driver) _exit(EXIT_FAILURE);
        work(all);
        exit(EXIT_SUCCESS);
    }
    int status;
    while (waitpid(-1, &status, 0) > 0)
        if (status != 0) {
            printf("FAILED a worker ended with status %#x\n", (unsigned)status);
            found->failed++;
        }
}

static bool report_coverage(void) {
    uint32_t points = pshm_crash_points(), covered = 0, places = 0;
    for (uint32_t point = 0; point < points; point++) {
        for (uint32_t actor = 0; actor < ACTORS; actor++) places += found->covered[actor][point];
        covered += is_covered(point);
        const pshm_point_site *site = pshm_crash_point(point);
        if (!is_covered(point) && option.every == 1)
            printf("NOT COVERED %s:%ld in %s\n", site->file, site->line, site->function);
    }
    printf("points: %u of %u covered (%u with the process that dies there)\n", covered, points,
           places);
    return covered == points || option.every > 1;
}

/* ---- one run, by hand ------------------------------------------------------------------ */

static uint32_t index_of(const char *word, const char *const *words, uint32_t count) {
    for (uint32_t n = 0; n < count; n++)
        if (word != NULL && strcmp(word, words[n]) == 0) return n;
    fprintf(stderr, "crash_points: what is %s?\n", word == NULL ? "missing" : word);
    exit(2);
}

static pshm_crash_kill kill_of(char *text) {
    char *rest, *actor = strtok_r(text, ":", &rest), *file = strtok_r(NULL, ":", &rest);
    char *line = strtok_r(NULL, ":", &rest), *pass = strtok_r(NULL, ":", &rest);
    for (uint32_t n = 0; pass != NULL && n < pshm_crash_points(); n++)
        if (strcmp(file, pshm_crash_point(n)->file) == 0 &&
            atol(line) == pshm_crash_point(n)->line)
            return (pshm_crash_kill){index_of(actor, actor_name, ACTORS), n,
                                     (uint32_t)atol(pass)};
    fprintf(stderr, "crash_points: no such point\n");
    exit(2);
}

/* Reads graph,restart|final,actor:file:line:pass,... */
static pshm_crash_scenario scenario_of(char *text) {
    static const char *const policy[] = {"restart", "final"};
    const char *names[sizeof pshm_crash_graphs / sizeof pshm_crash_graphs[0]];
    for (uint32_t n = 0; n < pshm_crash_graph_count; n++) names[n] = pshm_crash_graphs[n].name;
    char *rest;
    pshm_crash_scenario scenario = {.kill = {no_kill, no_kill}};
    scenario.graph = index_of(strtok_r(text, ",", &rest), names, pshm_crash_graph_count);
    scenario.final = index_of(strtok_r(NULL, ",", &rest), policy, 2) != 0;
    for (uint32_t n = 0; n < 2; n++) {
        char *kill = strtok_r(NULL, ",", &rest);
        if (kill != NULL) scenario.kill[n] = kill_of(kill);
    }
    return scenario;
}

static void try_by_hand(char *text, uint64_t times) {
    plan all = {0};
    pshm_crash_scenario scenario = scenario_of(text);
    for (uint64_t n = 0; n < times; n++)
        add(&all, scenario.graph, scenario.final, scenario.kill[0], scenario.kill[1]);
    try_all(&all);
    free(all.scenario);
}

static void try_uncovered(void) {
    plan all = {0};
    for (uint32_t graph = 0; graph < pshm_crash_graph_count; graph++) {
        explore(graph);
        plan_uncovered(&all, graph);
    }
    try_all(&all);
    free(all.scenario);
}

static void try_every_point(void) {
    plan all = {0};
    pshm_crash_open();
    for (uint32_t graph = 0; graph < pshm_crash_graph_count; graph++) {
        explore(graph);
        plan_singles(&all, graph);
        plan_recoverers(&all, graph);
        if (option.pairs) plan_pairs(&all, graph);
    }
    thin_out(&all);
    try_all(&all);
    free(all.scenario);
    bool complete = true;
    for (uint32_t point = 0; point < pshm_crash_points(); point++) complete &= is_covered(point);
    if (!complete && option.every == 1) try_uncovered();
}

static _Noreturn void show_usage(void) {
    fprintf(stderr,
            "usage: crash_points [--pairs] [--stride N] [--every N] [--seed N] [--jobs N]\n"
            "       crash_points --run SCENARIO [--times N] [--jobs N]\n");
    exit(2);
}

static void read_options(int arguments, char **argument) {
    for (int n = 1; n < arguments; n++) {
        if (strcmp(argument[n], "--pairs") == 0) {
            option.pairs = true;
            continue;
        }
        const char *name = argument[n++];
        char *value = n < arguments ? argument[n] : NULL;
        uint64_t number = value == NULL ? 0 : strtoull(value, NULL, 10);
        if (value != NULL && strcmp(name, "--run") == 0)
            option.run = value;
        else if (strcmp(name, "--seed") == 0)
            option.seed = number;
        else if (number > 0 && strcmp(name, "--stride") == 0)
            option.stride = number;
        else if (number > 0 && strcmp(name, "--every") == 0)
            option.every = number;
        else if (number > 0 && strcmp(name, "--times") == 0)
            option.times = number;
        else if (number > 0 && number <= JOBS_MOST && strcmp(name, "--jobs") == 0)
            option.jobs = (uint32_t)number;
        else
            show_usage();
    }
}

int main(int arguments, char **argument) {
    uint64_t started = pshm_now();
    read_options(arguments, argument);
    found = mmap(NULL, sizeof *found, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(found != MAP_FAILED, "no memory");
    if (option.run != NULL)
        try_by_hand(option.run, option.times);
    else
        try_every_point();
    bool covered = option.run != NULL || report_coverage();
    printf("%" PRIu64 " runs with two deaths; %.1f s\n", found->both,
           (double)(pshm_now() - started) / 1e9);
    printf("%" PRIu64 " passed, %" PRIu64 " failed\n", found->passed, found->failed);
    return covered && found->failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
