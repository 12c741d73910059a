/* Run by c.rs against a service: client SOCKET. Prints a word and waits for a line wherever the other side looks or acts. */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "portcullis.h"

#define IS(call, want)                                                                                   \
	do {                                                                                             \
		long long got_ = (call), want_ = (want);                                                 \
		if (got_ != want_) {                                                                     \
			fprintf(stderr, "%d: %s is %lld, not %lld: %s\n", __LINE__, #call, got_, want_,  \
			        portcullis_error());                                                     \
			exit(1);                                                                         \
		}                                                                                        \
	} while (0)

static void meet(const char *word)
{
	char line[16];
	printf("%s\n", word);
	fflush(stdout);
	if (!fgets(line, sizeof line, stdin))
		exit(2);
}

int main(int argc, char **argv)
{
	portcullis_connection c, other;
	portcullis_object object, second;
	const unsigned rw = PORTCULLIS_READ | PORTCULLIS_WRITE;
	uint64_t at;

	if (argc != 2)
		return 2;
	printf("%zu %zu %zu\n", sizeof(struct portcullis_entry), sizeof(struct portcullis_region),
	       sizeof(struct portcullis_fault));
	printf("%zu %zu\n", offsetof(struct portcullis_fault, raw_length), offsetof(struct portcullis_fault, reason));

	/* Arguments without sense, before and beside any connection. */
	IS(portcullis_init(argv[1], NULL, NULL), -EINVAL);
	IS(portcullis_init("/nowhere/at/all", NULL, &c), -ECONNREFUSED);
	IS(portcullis_init(argv[1], "somebody else", &c), -EACCES);
	IS(portcullis_init(argv[1], "\xff", &c), -EINVAL);
	IS(portcullis_fini(12345), -EBADF);
	IS(portcullis_resume(12345), -EBADF);
	IS(portcullis_object_create(0, &object), -EBADF);
	IS(strlen(portcullis_error()) > 0, 1);

	IS(portcullis_init(argv[1], "storage", &c), 0);
	IS(strlen(portcullis_error()), 0);
	IS(portcullis_object_create(c, NULL), -EINVAL);
	IS(portcullis_object_create(c, (portcullis_object *)((char *)&at + 1)), -EINVAL);
	IS(portcullis_object_create(c, &object), 0);
	IS(portcullis_object_create(c, &second), 0);
	IS(portcullis_object_destroy(c, 777), -EBADF);

	IS(portcullis_resume(c), 0);

	/* Devices. */
	IS(portcullis_device_add_generic(c, object, NULL), -EINVAL);
	IS(portcullis_device_add_generic(c, object, "no such"), -ENOENT);
	IS(portcullis_device_add_generic(c, 777, "dev0"), -EBADF);
	IS(portcullis_device_add_generic(c, object, "dev0"), 0);
	IS(portcullis_device_add_generic(c, object, "dev0"), 0);
	IS(portcullis_device_add_generic(c, second, "dev0"), -EBUSY);
	IS(portcullis_device_add_generic(c, object, "forbidden"), -EACCES);
	IS(portcullis_device_add_pci(c, object, 0, 256, 0, 0), -EINVAL);
	IS(portcullis_device_add_pci(c, object, 0, 0, 9, 0), -ENOENT);
	IS(portcullis_device_add_pci(c, object, 1, 2, 3, 4), 0);
	IS(portcullis_device_descriptor(c, "dev0"), -EOPNOTSUPP);
	IS(portcullis_device_descriptor(c, "dev1"), -ENOENT);

	/* Mappings. */
	int memfd = memfd_create("test", MFD_ALLOW_SEALING), pipes[2];
	IS(ftruncate(memfd, 0x10000), 0);
	IS(pipe(pipes), 0);
	struct portcullis_entry two[2] = { { 0x3000, 0x1000 }, { 0x8000, 0x2000 } };
	struct portcullis_entry odd = { 0, 100 }, beyond = { 0xf000, 0x2000 }, wraps = { UINT64_MAX - 0xfff, 0x2000 };
	IS(portcullis_mapping_add(c, object, rw, memfd, 2, two, NULL), -EINVAL);
	at = 0x100000;
	IS(portcullis_mapping_add(c, object, rw, memfd, 2, NULL, &at), -EINVAL);
	IS(portcullis_mapping_add(c, object, rw, memfd, 0, two, &at), -EINVAL);
	IS(portcullis_mapping_add(c, object, 8, memfd, 2, two, &at), -EINVAL);
	IS(portcullis_mapping_add(c, object, rw, memfd, 1u << 30, two, &at), -E2BIG);
	IS(portcullis_mapping_add(c, object, rw, -2, 2, two, &at), -EBADF);
	IS(portcullis_mapping_add(c, object, rw, 999, 2, two, &at), -EBADF);
	IS(portcullis_mapping_add(c, object, rw, pipes[0], 2, two, &at), -EBADF);
	IS(portcullis_mapping_add(c, object, rw, memfd, 1, &odd, &at), -EINVAL);
	IS(portcullis_mapping_add(c, object, rw, memfd, 1, &beyond, &at), -ERANGE);
	IS(portcullis_mapping_add(c, object, rw, memfd, 1, &wraps, &at), -EINVAL);
	IS(portcullis_mapping_add(c, object, rw, PORTCULLIS_PHYSICAL, 2, two, &at), -EACCES);
	IS(portcullis_mapping_add(c, object, rw, memfd, 2, two, &at), 0);
	IS(at, 0x100000);
	meet("mapped");

	/* Again, as libsmmu's +1 asks for; and in another way, which is refused. */
	IS(portcullis_mapping_add(c, object, rw, memfd, 2, two, &at), 0);
	IS(portcullis_mapping_add(c, object, PORTCULLIS_READ, memfd, 2, two, &at), -EEXIST);
	IS(portcullis_device_add_mmio(c, object, 0xfe001000), 1);
	meet("joined");

	at = PORTCULLIS_ANY_ADDRESS;
	IS(portcullis_mapping_add(c, object, rw, memfd, 2, two, &at), -EINVAL);
	IS(portcullis_mapping_add(c, object, PORTCULLIS_READ, memfd, 1, two, &at), 0);
	IS(at != PORTCULLIS_ANY_ADDRESS && at % 4096 == 0 && at != 0x100000, 1);
	IS(portcullis_mapping_add(c, object, PORTCULLIS_NONE, -1, 1, two, &at), 0);
	IS(portcullis_mapping_add(c, object, PORTCULLIS_NONE, -1, 1, two, &at), -ENOENT);
	at = PORTCULLIS_SAME_ADDRESS;
	IS(portcullis_mapping_add(c, object, rw, memfd, 2, two, &at), 0);
	IS(at, 0x3000);
	at = PORTCULLIS_SAME_ADDRESS;
	IS(portcullis_mapping_add(c, object, PORTCULLIS_NONE, -1, 2, two, &at), 0);
	at = 0x100000;
	IS(portcullis_mapping_add(c, object, PORTCULLIS_NONE, -1, 1, two, &at), 0);
	meet("halved");

	/* Reserved regions. */
	struct portcullis_region regions[2];
	memset(regions, 0xee, sizeof regions);
	IS(portcullis_device_report_reserved(c, "dev0", 2, NULL), -EINVAL);
	IS(portcullis_device_report_reserved(c, "dev0", 0, NULL), 2);
	IS(portcullis_device_report_reserved(c, "dev0", 1, regions), 2);
	IS(regions[0].first, 0xfee00000);
	IS(regions[0].last, 0xfeefffff);
	IS(regions[0].kind, PORTCULLIS_REGION_MSI);
	IS(regions[1].kind, 0xeeeeeeee);
	at = 0xfee00000;
	IS(portcullis_mapping_add(c, object, rw, memfd, 1, two, &at), -EADDRNOTAVAIL);

	/* Somebody else. */
	IS(portcullis_init(argv[1], NULL, &other), 0);
	IS(portcullis_object_create(other, &second), 0);
	IS(portcullis_device_add_generic(other, second, "dev0"), -EBUSY);
	IS(strstr(portcullis_error(), "storage") != NULL, 1);
	IS(portcullis_device_add_generic(other, PORTCULLIS_NO_OBJECT, "dev0"), -EPERM);
	IS(portcullis_fini(other), 0);
	IS(portcullis_fini(other), -EBADF);

	/* Refused accesses, twice: the event goes on. */
	struct portcullis_fault fault;
	int event = portcullis_fault_descriptor(c);
	IS(event >= 0, 1);
	IS(portcullis_fault_fetch(c, NULL), -EINVAL);
	IS(portcullis_fault_fetch(c, &fault), 0);
	for (int round = 0; round < 2; round++) {
		struct pollfd wait = { event, POLLIN, 0 };
		uint64_t times;
		IS(poll(&wait, 1, 0), 0);
		meet("refuse");
		IS(poll(&wait, 1, 10000), 1);
		IS(read(event, &times, sizeof times), 8);
		IS(portcullis_fault_fetch(c, &fault), 1);
		IS(fault.address, 0x0dead000 + round);
		IS(fault.access, PORTCULLIS_WRITE);
		IS(fault.pasid, PORTCULLIS_NO_PASID);
		IS(fault.code, 6);
		IS(fault.count, 3);
		IS(fault.raw_length, 2);
		IS(fault.raw[1], 0x1122334455667788);
		IS(strcmp(fault.device, "dev0"), 0);
		IS(strcmp(fault.reason, "not-mapped"), 0);
		IS(strcmp(fault.unit, "unit0"), 0);
		IS(portcullis_fault_fetch(c, &fault), 0);
	}

	IS(portcullis_device_add_generic(c, PORTCULLIS_NO_OBJECT, "dev0"), 0);
	IS(portcullis_device_add_generic(c, PORTCULLIS_NO_OBJECT, "dev0"), -EPERM);
	meet("gave back");
	IS(portcullis_object_destroy(c, object), 0);
	IS(portcullis_object_destroy(c, object), -EBADF);
	IS(portcullis_fini(c), 0);
	IS(portcullis_fini(c), -EBADF);
	meet("ended");
	return 0;
}
