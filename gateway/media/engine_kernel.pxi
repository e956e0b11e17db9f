# What the kernel does for all cores of an engine; part of _engine.pyx.

cdef class Kernel:
    """Relays that the kernel carries, of all cores; outlives them. Raises OSError, whose file name
    says what was refused."""
    cdef ce_kernel *k

    def __cinit__(self, uint32_t n_streams):
        from os import strerror
        cdef const char *what
        self.k = ce_kernel_new(n_streams, &what)
        if self.k == NULL:
            raise OSError(errno, strerror(errno), what.decode())

    def __dealloc__(self):
        ce_kernel_free(self.k)

    def attach(self, int interface):
        """Take packets that come in by an interface (its index); until this object goes."""
        from os import strerror
        cdef int r = ce_kernel_attach(self.k, interface)
        if r:
            raise OSError(r, strerror(r), "bpf(BPF_LINK_CREATE)")


cdef class Steer:
    """Sockets that many legs share, of all cores; outlives them. Raises OSError, whose file name
    says what was refused."""
    cdef ce_steer *k

    def __cinit__(self, int n_cores, int sockets_each):
        from os import strerror
        cdef const char *what
        self.k = ce_steer_new(n_cores, sockets_each, &what)
        if self.k == NULL:
            raise OSError(errno, strerror(errno), what.decode())

    def __dealloc__(self):
        ce_steer_free(self.k)
