/* pages: has memory of every kind that a dump filter tells apart, and sleeps. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (1 << 20)
#define PAGE 4096
#ifndef MADV_SOFT_OFFLINE /* in Linux's headers, not in the C library's */
#define MADV_SOFT_OFFLINE 101
#endif

/* Memory of a file, or of none; each page with contents of its own. */
static char *memory(const char *file, long size, int flags, int advice)
{
    int fd = file ? open(file, O_CREAT | O_RDWR, 0600) : -1;
    if (file && (fd < 0 || ftruncate(fd, size)))
        perror(file);
    char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | (file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS), fd, 0);
    if (at == MAP_FAILED) {
        perror("LAB pages: mmap");
        _exit(1);
    }
    madvise(at, size, advice);
    for (long i = 0; i < size; i += PAGE)
        memcpy(at + i, &i, sizeof i);
    return at;
}

static void advise(char *at, long size, int advice, const char *what)
{
    if (madvise(at, size, advice))
        perror(what);
}

int main(void)
{
    memory(NULL, 4 * MIB, MAP_HUGETLB, MADV_NORMAL);
    memory("/huge/file", 2 * MIB, 0, MADV_NORMAL);
    memory("/shm/huge", 4 * MIB, 0, MADV_NORMAL);
    /* Transparent huge pages, one of them partly unmapped. */
    munmap(memory(NULL, 8 * MIB, 0, MADV_HUGEPAGE) + 3 * MIB, 37 * PAGE);
    /* Swapped out, and half of it read back: it is in memory and in swap. */
    char *swapped = memory(NULL, 8 * MIB, 0, MADV_NOHUGEPAGE);
    advise(swapped, 8 * MIB, MADV_PAGEOUT, "LAB pages: page out");
    for (long i = 0; i < 4 * MIB; i += PAGE)
        *(volatile char *)(swapped + i);
    mlock(memory(NULL, MIB, 0, MADV_NORMAL), MIB);
    memset(memory(NULL, 2 * MIB, 0, MADV_MERGEABLE), 0x5a, 2 * MIB);
    if (!fork()) {
        char *small = memory(NULL, MIB, 0, MADV_NOHUGEPAGE);
        for (int i = 0; i < 5; i++)
            advise(small + 3 * i * PAGE, PAGE, MADV_SOFT_OFFLINE, "LAB pages: soft offline");
        /* Poisoning kills who has the page: one process each. */
        if (fork())
            advise(small + 100 * PAGE, PAGE, MADV_HWPOISON, "LAB pages: poison");
        else
            advise(memory(NULL, 2 * MIB, MAP_HUGETLB, MADV_NORMAL), PAGE, MADV_HWPOISON, "LAB pages: poison hugetlb");
    }
    for (;;)
        pause();
}
