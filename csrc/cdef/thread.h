/* See tgkill(2), for which older C libraries have no function. */
#define SYS_tgkill ...

long syscall(long number, ...);
