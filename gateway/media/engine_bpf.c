/* bpf(2), for what the engine asks of the kernel: maps and programs. All belong to descriptors. */
#include "engine_impl.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int ce_bpf(int command, union bpf_attr *a)
{
    return (int)syscall(SYS_bpf, command, a, sizeof *a);
}

/* The kernel refuses what is not zero behind the last field it looks at; an initializer need not
 * clear more than the member it names. */
void ce_bpf_clear(union bpf_attr *a)
{
    memset(a, 0, sizeof *a);
}

int ce_bpf_map(int type, uint32_t key, uint32_t value, uint32_t n, uint32_t flags)
{
    union bpf_attr a;
    ce_bpf_clear(&a);
    a.map_type = (uint32_t)type;
    a.key_size = key;
    a.value_size = value;
    a.max_entries = n;
    a.map_flags = flags;
    return ce_bpf(BPF_MAP_CREATE, &a);
}

int ce_bpf_set(int fd, const void *key, const void *value)
{
    union bpf_attr a;
    ce_bpf_clear(&a);
    a.map_fd = (uint32_t)fd;
    a.key = (uintptr_t)key;
    a.value = (uintptr_t)value;
    return ce_bpf(BPF_MAP_UPDATE_ELEM, &a);
}

int ce_bpf_program(int type, int attach, const char *name, const uint64_t *words, int n,
                   const ce_bpf_maps *maps)
{
    struct bpf_insn code[CE_BPF_MOST];
    if (n > CE_BPF_MOST)
        return -1;
    memcpy(code, words, (size_t)n * sizeof *code);
    for (int i = 0; i < n; i++) {
        if (code[i].code != (BPF_LD | BPF_IMM | BPF_DW))
            continue;
        for (int k = 0; k < maps->n; k++) {
            if (code[i].imm == maps->number[k]) {
                code[i].src_reg = BPF_PSEUDO_MAP_FD;
                code[i].imm = maps->fd[k];
                break;
            }
        }
        i++; /* its second half */
    }
    union bpf_attr a;
    ce_bpf_clear(&a);
    a.prog_type = (uint32_t)type;
    a.expected_attach_type = (uint32_t)attach;
    a.insn_cnt = (uint32_t)n;
    a.insns = (uintptr_t)code;
    a.license = (uintptr_t) "Apache-2.0";
    strncpy(a.prog_name, name, sizeof a.prog_name - 1);
    return ce_bpf(BPF_PROG_LOAD, &a);
}
