/* Preloaded into User-Mode-Linux on processors with AMX.
 *
 * Its kernel keeps 2,696 bytes of extended processor state per task; a host with AMX has 11,008 and takes a
 * PTRACE_SETREGSET of all of it only (EFAULT otherwise: "ptrace set fp regs failed, errno = 14", and no lab).
 * What lies beyond the 2,696 bytes is the state of the tiles, which no process has without asking for it: zeros.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/uio.h>

#define SETREGSET 0x4205
#define NT_X86_XSTATE 0x202
#define KEPT 2696
#define XSTATE_BV 512 /* offset of the bitmap of states that are in use */
#define TILES (3ULL << 17)

static unsigned long host_size(void)
{
    unsigned int eax, ebx = 0, ecx, edx;
    __cpuid_count(0xd, 0, eax, ebx, ecx, edx);
    return ebx;
}

long ptrace(int request, ...)
{
    static _Alignas(64) char whole[1 << 16];
    static unsigned long size;
    static long (*next)(int, ...);
    struct iovec wider;
    va_list arguments;

    va_start(arguments, request);
    long pid = va_arg(arguments, int);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);
    if (!next)
        next = (long (*)(int, ...))dlsym(RTLD_NEXT, "ptrace");
    if (request == SETREGSET && (long)address == NT_X86_XSTATE) {
        struct iovec *given = data;
        if (!size)
            size = host_size();
        if (given->iov_len == KEPT && size > KEPT && size <= sizeof whole) {
            unsigned long long used;
            memcpy(whole, given->iov_base, KEPT);
            memcpy(&used, whole + XSTATE_BV, sizeof used);
            used &= ~TILES;
            memcpy(whole + XSTATE_BV, &used, sizeof used);
            wider.iov_base = whole;
            wider.iov_len = size;
            data = &wider;
        }
    }
    return next(request, pid, address, data);
}
