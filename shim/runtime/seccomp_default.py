"""The RuntimeDefault seccomp profile, as data.

What an ordinary program needs is allowed, everything else answers EPERM: system calls that reach beyond the
namespaces, that only the node's administrator needs, or that are obsolete. Some are allowed with the
capability that the kernel itself wants for them. The effect is that of the profile which docker and
containerd use (its documentation: docs.docker.com/engine/security/seccomp).

clone3 answers ENOSYS without SYS_ADMIN: its flags lie in memory, where a filter cannot look, and programs
fall back to clone, whose flags are checked. A socket of AF_VSOCK would reach the hypervisor past the network
namespace, one of AF_ALG a large part of the kernel that few programs need. A 32-bit program that opens its
sockets by socketcall passes by that check: the arguments lie in memory there.
"""

from __future__ import annotations

import errno
from typing import Final

_FILES: Final = """
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat
    faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32
    fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64
    fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl lchown lchown32 lgetxattr link linkat
    listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod
    mknodat name_to_handle_at newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2
    read readahead readlink readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir
    sendfile sendfile64 setxattr setxattrat splice stat stat64 statfs statfs64 statx symlink symlinkat sync
    sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime utimensat utimensat_time64
    utimes vmsplice write writev listmount statmount cachestat
"""
_MEMORY: Final = """
    brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2
    mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free
    pkey_mprotect process_mrelease remap_file_pages
"""
_PROCESSES: Final = """
    alarm capget capset execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait
    futex_waitv futex_wake get_robust_list get_thread_area getcpu getegid getegid32 geteuid geteuid32 getgid
    getgid32 getgroups getgroups32 getpgid getpgrp getpid getppid getpriority getresgid getresgid32 getresuid
    getresuid32 getrlimit getrusage getsid gettid getuid getuid32 ioprio_get ioprio_set kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self pause pidfd_open pidfd_send_signal prctl prlimit64
    restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
    seccomp set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid
    setgid32 setgroups setgroups32 setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
    setresuid32 setreuid setreuid32 setrlimit setsid setuid setuid32 sigaltstack signalfd signalfd4
    sigprocmask sigreturn tgkill time times tkill ugetrlimit uname vfork wait4 waitid waitpid
    lsm_get_self_attr lsm_list_modules riscv_hwprobe uretprobe
"""
_WAITING_AND_TIME: Final = """
    adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait
    epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 getitimer gettimeofday nanosleep _newselect poll
    ppoll ppoll_time64 pselect6 pselect6_time64 select setitimer timer_create timer_delete timer_getoverrun
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64
"""
_COMMUNICATION: Final = """
    accept accept4 bind connect getpeername getsockname getsockopt getrandom io_cancel io_destroy io_getevents
    io_pgetevents io_pgetevents_time64 io_setup io_submit ipc listen mq_getsetattr mq_notify mq_open
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv
    msgsnd pipe pipe2 recv recvfrom recvmmsg recvmmsg_time64 recvmsg semctl semget semop semtimedop
    semtimedop_time64 send sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown socketcall
    socketpair sysinfo
"""
ALLOWED: Final = tuple((_FILES + _MEMORY + _PROCESSES + _WAITING_AND_TIME + _COMMUNICATION).split())

# Tracing needs no capability among equals; since Linux 4.8 it cannot be used to get past a filter.
TRACING: Final = ("process_vm_readv", "process_vm_writev", "ptrace")

WITH_CAPABILITY: Final = {
    "DAC_READ_SEARCH": ("open_by_handle_at",),
    "SYS_ADMIN": (
        *("bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick"),
        *("lookup_dcookie", "lsm_set_self_attr", "mount", "mount_setattr", "move_mount", "open_tree"),
        *("quotactl", "quotactl_fd", "setdomainname", "sethostname", "setns", "syslog", "umount", "umount2"),
        *("perf_event_open", "unshare"),
    ),
    "SYS_BOOT": ("reboot",),
    "SYS_CHROOT": ("chroot",),
    "SYS_MODULE": ("delete_module", "init_module", "finit_module"),
    "SYS_PACCT": ("acct",),
    "SYS_PTRACE": ("kcmp", "pidfd_getfd", "process_madvise", *TRACING),
    "SYS_RAWIO": ("iopl", "ioperm"),
    "SYS_TIME": ("settimeofday", "stime", "clock_settime", "clock_settime64"),
    "SYS_TTY_CONFIG": ("vhangup",),
    "SYS_NICE": ("get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"),
    "SYSLOG": ("syslog",),
    "BPF": ("bpf",),
    "PERFMON": ("perf_event_open",),
}

# By the machine's name of uname(2): the architectures, as libseccomp names them, whose programs it also runs.
ARCHITECTURES: Final[dict[str, tuple[str, ...]]] = {
    "x86_64": ("x86", "x32"),
    "aarch64": ("arm",),
    "s390x": ("s390",),
}
ON_MACHINE: Final[dict[str, tuple[str, ...]]] = {
    "x86_64": ("arch_prctl", "modify_ldt"),
    "aarch64": (
        "arm_fadvise64_64",
        "arm_sync_file_range",
        "sync_file_range2",
        "breakpoint",
        "cacheflush",
        "set_tls",
    ),
    "ppc64le": ("swapcontext", "sync_file_range2"),
    "s390x": ("s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr"),
    "riscv64": ("riscv_flush_icache",),
}
# Which argument of clone holds the flags, where it is not the first.
CLONE_FLAGS_ARGUMENT: Final = {"s390x": 1}

# PER_LINUX, PER_LINUX32, UNAME26, PER_LINUX32 | UNAME26, and 0xffffffff, which asks.
PERSONALITIES: Final = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)

# CLONE_NEW* of mount, cgroup, uts, ipc, user, pid and network namespaces.
NAMESPACE_FLAGS: Final = 0x7E020000

# Families of sockets that are not allowed, and the end of those that are (AF_MCTP, 45, is the newest).
AF_ALG: Final = 38
AF_VSOCK: Final = 40
AF_END: Final = 48

DEFAULT_ERRNO: Final = errno.EPERM
CLONE3_ERRNO: Final = errno.ENOSYS
