/*
 * The Portcullis manager's client for C, with calls like libsmmu's.
 *
 * Every call that can fail returns a negative error number of errno.h; portcullis_error() then says why in words. Handles are
 * numbers, never used twice: one that is wrong, old or of another kind is answered with -EBADF. Any thread may make any call;
 * calls on one connection wait for each other.
 *
 *   -EINVAL      an argument makes no sense: null, misaligned, no whole pages, a range that wraps
 *   -EBADF       no such connection, object or descriptor, or the descriptor is not memory that can be granted
 *   -ECONNREFUSED, -ECONNRESET, -EPROTO
 *                the service is not running, has ended, or answered nonsense
 *   -ENOENT      no such device; nothing is mapped there
 *   -EBUSY       somebody else has the device, or it is attached elsewhere, or still in use
 *   -EACCES      the configuration does not give you that, or the socket's permissions leave you out
 *   -EPERM       it could not be made safe, and the configuration does not accept that; or you have not claimed it
 *   -ERANGE      beyond the memory, the unit, or the addresses that you were given
 *   -EADDRNOTAVAIL  reserved addresses
 *   -EEXIST      another mapping is there
 *   -ENOSPC      a limit was reached
 *   -EOPNOTSUPP  not possible on this hardware
 *   -ESTALE      it could not be kept over a restart of the service
 *   -ENOTRECOVERABLE  the service is in its safe state: everything is blocked
 *   -EBADMSG     what was sent is no call: the library's own mistake
 *   -EIO         the system's failure; a call that broke
 */
#ifndef PORTCULLIS_H
#define PORTCULLIS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A connection to the service. Whatever was had through it ends with it, however it ends. */
typedef uint64_t portcullis_connection;
/* What several devices may reach: all devices of an object share its mappings. Never 0. */
typedef uint64_t portcullis_object;

/* In place of an object: the device is removed from the one that it is in, stopped, reset and given back. */
#define PORTCULLIS_NO_OBJECT ((portcullis_object)0)

/* What devices may do; none removes mappings. */
#define PORTCULLIS_NONE  0u
#define PORTCULLIS_READ  1u
#define PORTCULLIS_WRITE 2u
#define PORTCULLIS_EXEC  4u

/* In place of a memfd: entries are physical addresses, where the configuration permits some. */
#define PORTCULLIS_PHYSICAL (-1)

/* In place of an address for devices: the manager chooses one (a single entry only). */
#define PORTCULLIS_ANY_ADDRESS UINT64_MAX
/* Devices see each entry at its own offset or physical address. */
#define PORTCULLIS_SAME_ADDRESS (UINT64_MAX - 1)

/* The PASID of a record that has none. */
#define PORTCULLIS_NO_PASID UINT32_MAX

/* Kinds of reserved regions. */
#define PORTCULLIS_REGION_DIRECT           1u /* firmware keeps the device's access to it */
#define PORTCULLIS_REGION_DIRECT_RELAXABLE 2u /* as long as nobody has the device */
#define PORTCULLIS_REGION_RESERVED         3u
#define PORTCULLIS_REGION_MSI              4u /* interrupts go there */

/* Bytes of a memory, or physical addresses. */
struct portcullis_entry {
	uint64_t offset;
	uint64_t length;
};

/* Addresses, first and last byte, that a device cannot use. */
struct portcullis_region {
	uint64_t first;
	uint64_t last;
	uint32_t kind;
	uint32_t access; /* what a direct region permits */
};

/* One refused access. Text ends with a zero; what does not fit is cut. */
struct portcullis_fault {
	uint64_t number;  /* ascending */
	uint64_t time;    /* nanoseconds since 1970 UTC */
	uint64_t address;
	uint64_t grant;   /* the grant that holds the address but does not permit the access, or 0 */
	uint64_t count;   /* refusals that this record stands for */
	uint64_t lost;    /* refusals without a record, anybody's, since the last record that was fetched */
	uint64_t raw[8];  /* the hardware's record */
	uint32_t raw_length; /* words of it */
	uint32_t access;
	uint32_t pasid;
	uint32_t code;    /* the architecture's own */
	char device[64];  /* the devices that it can have been, separated by spaces */
	char requester[64]; /* as the unit knows it */
	char unit[64];
	char reason[32];  /* not-mapped, permission-denied, ... */
};

/* Why the last call of this thread failed. Valid until the thread's next call; never null. */
const char *portcullis_error(void);

/* Connects to the service at `socket`, or where PORTCULLIS_SOCKET says, or at the usual place if null; under the configuration
 * called `client`, or the first that fits if null. */
int portcullis_init(const char *socket, const char *client, portcullis_connection *connection);

/* Ends a connection: its devices are stopped, cut off and reset. */
int portcullis_fini(portcullis_connection connection);

/* After a call was answered with -ECONNRESET because the service was killed or crashed: has back what the connection had, as soon
 * as the service runs again (until then -ECONNREFUSED: try again). Devices have gone on all the while with what they were granted.
 * Returns 0: everything is as it was; handles, descriptors and mappings are the same. Or 1: some of it could not be kept, and is
 * gone from the connection too; devices that are (portcullis_device_descriptor: -ENOENT) are blocked, and have to be added again.
 *
 *   -ESTALE      nothing could be kept: all devices are blocked. Close their descriptors and begin anew, with this connection
 *   -ENOENT      the service no longer knows this process: it came back too late, or is another. Begin anew
 *
 * A connection to a service that still runs is left as it is. An event of portcullis_fault_descriptor() stays good. */
int portcullis_resume(portcullis_connection connection);

/* Makes an object that maps nothing. */
int portcullis_object_create(portcullis_connection connection, portcullis_object *object);

/* Removes an object and its mappings; its devices are blocked, and still had. */
int portcullis_object_destroy(portcullis_connection connection, portcullis_object object);

/* Has a device, with everything in its group, and adds it to an object; PORTCULLIS_NO_OBJECT gives it back.
 * Returns 0; or 1: added behind another unit, and the object's mappings were made there again. Programs that now issue all
 * mappings again, as libsmmu wants it, do no harm and need not. A device that is in another object is refused with -EBUSY. */
int portcullis_device_add_generic(portcullis_connection connection, portcullis_object object, const char *device);
int portcullis_device_add_pci(portcullis_connection connection, portcullis_object object, unsigned segment,
                              unsigned bus, unsigned device, unsigned function);
/* By the address of its registers. */
int portcullis_device_add_mmio(portcullis_connection connection, portcullis_object object, uint64_t address);

/* The descriptor that a device came with: registers, configuration space, interrupts. The caller closes it. `device` is a name
 * without wildcards. -ENOENT: none was had under that name; -EOPNOTSUPP: it came without. */
int portcullis_device_descriptor(portcullis_connection connection, const char *device);

/* The addresses that a device cannot use. Writes at most `capacity` regions, which may be null if that is 0; returns how many
 * there are. */
int portcullis_device_report_reserved(portcullis_connection connection, const char *device, unsigned capacity,
                                      struct portcullis_region *regions);

/* Maps entries of a memfd (sealed against shrinking from then on) one behind the other from *address on, all or none; with
 * PORTCULLIS_NONE removes what is mapped there, with `memfd` unused. At most 16384 entries. On return of a removal no device
 * reaches it. *address becomes the address of the first. What is mapped already in exactly that way is left as it is. */
int portcullis_mapping_add(portcullis_connection connection, portcullis_object object, unsigned flags, int memfd,
                           unsigned count, const struct portcullis_entry *entries, uint64_t *address);

/* An event descriptor (eventfd(2)) that becomes readable when accesses of your devices are refused, again and again; and when
 * the service ends. Read its eight bytes, then fetch until there is no more. The caller closes it. */
int portcullis_fault_descriptor(portcullis_connection connection);

/* The next refused access of your devices since portcullis_init. Returns 1 with a record, 0 if there is none. */
int portcullis_fault_fetch(portcullis_connection connection, struct portcullis_fault *fault);

#ifdef __cplusplus
}
#endif

#endif
