/* Has a device, grants it one mebibyte, and tells what it was refused: grant DEVICE */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "portcullis.h"

static int failed(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, portcullis_error());
	return 1;
}

int main(int argc, char **argv)
{
	portcullis_connection connection;
	portcullis_object object;

	if (argc != 2 || portcullis_init(NULL, NULL, &connection) < 0)
		return failed("connect");
	if (portcullis_object_create(connection, &object) < 0)
		return failed("object");
	if (portcullis_device_add_generic(connection, object, argv[1]) < 0)
		return failed(argv[1]);

	int memfd = memfd_create("ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (memfd < 0 || ftruncate(memfd, 1 << 20) < 0)
		return 1;
	struct portcullis_entry ring = { .offset = 0, .length = 1 << 20 };
	uint64_t address = PORTCULLIS_ANY_ADDRESS;
	if (portcullis_mapping_add(connection, object, PORTCULLIS_READ | PORTCULLIS_WRITE, memfd, 1, &ring, &address) < 0)
		return failed("map");
	printf("%s reaches the ring at 0x%" PRIx64 "\n", argv[1], address);

	/* Here a driver would drive the device. What it is refused is recorded meanwhile. */
	struct portcullis_fault fault;
	while (portcullis_fault_fetch(connection, &fault) == 1)
		printf("%s refused at 0x%" PRIx64 ": %s\n", fault.device, fault.address, fault.reason);

	/* Stopped, cut off, reset. */
	return portcullis_fini(connection) < 0 ? failed("end") : 0;
}
