// A driver that means harm: takes each virtio-pci device that it finds from its driver, and sends it what no driver sends:
// chains with loops, of any length, of memory that is not there or wrong in direction, rings out of place and queues of
// impossible sizes, accesses to registers at odd offsets, resets in the middle. Then the device is given back, and must do
// its work again.
//
// What is harmful to the guest itself is left out: a device writes where it is told, so that it is told memory of this
// program, or none at all. Of the balloon only our own pages are offered; a console stays as it is, for it may be ours; and
// so does a disk that is mounted.
//
// Arguments: a seed, and how many rounds each device has. Prints a line for each device; ends with 0 if all work again.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

// Virtio 1.2, 4.1.4: capabilities and registers. 5: kinds of devices.
enum { COMMON = 1, NOTIFY = 2, ISR = 3, DEVICE = 4, KINDS = 5 };
enum {
	DEVICE_FEATURE_SELECT = 0, DEVICE_FEATURE = 4, DRIVER_FEATURE_SELECT = 8, DRIVER_FEATURE = 12, NUM_QUEUES = 18,
	STATUS = 20, QUEUE_SELECT = 22, QUEUE_SIZE = 24, QUEUE_VECTOR = 26, QUEUE_ENABLE = 28, QUEUE_NOTIFY_OFF = 30,
	QUEUE_DESC = 32, QUEUE_DRIVER = 40, QUEUE_DEVICE = 48, COMMON_END = 56
};
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 64 };
enum { NET = 1, BLOCK = 2, CONSOLE = 3, RNG = 4, BALLOON = 5, MEM = 24, PMEM = 27 };
enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };
enum { PAGE = 4096, PAGES = 64, QUEUES = 4, DESCRIPTORS = PAGE / 16 };

struct descriptor { uint64_t address; uint32_t length; uint16_t flags, next; };

struct device {
	char address[64], driver[64];
	int kind, had_driver;
	// How many chains came back, and how often it asked to be reset.
	uint32_t returned, broken;
	volatile uint8_t *at[KINDS];
	uint32_t length[KINDS], notify_step;
};

// Memory of ours that stays where it is: each queue's descriptors and its two rings; tables of indirect chains, and a page for
// such as are not aligned; and what chains name.
enum { TABLES = QUEUES * 3, ODD_TABLE = TABLES + 8, DATA };
static uint8_t *memory;
static uint64_t physical[PAGES], end_of_ram;
static uint16_t published[QUEUES];

static uint64_t state;
static uint32_t any(uint32_t end)
{
	state ^= state << 13; state ^= state >> 7; state ^= state << 17;
	return (uint32_t)(state * 0x2545f4914f6cdd1dull >> 32) % end;
}
#define ONE_OF(...) ((const uint64_t[]){__VA_ARGS__}[any(sizeof((const uint64_t[]){__VA_ARGS__}) / 8)])

static void fail(const char *what, ...)
{
	va_list list;
	va_start(list, what);
	printf("FAILED: "); vprintf(what, list); printf(": %s\n", strerror(errno));
	exit(1);
}

// Files of sysfs.

static int put(const char *text, const char *format, ...)
{
	char path[300];
	va_list list;
	va_start(list, format);
	vsnprintf(path, sizeof path, format, list);
	int file = open(path, O_WRONLY), length = strlen(text);
	int done = file >= 0 && write(file, text, length) == length;
	if (file >= 0) close(file);
	return done;
}

// The end of the path that a pattern stands for.
static int found(char *name, size_t size, const char *format, ...)
{
	char path[300];
	va_list list;
	glob_t all;
	va_start(list, format);
	vsnprintf(path, sizeof path, format, list);
	int is = glob(path, 0, 0, &all) == 0;
	if (is) snprintf(name, size, "%s", strrchr(all.gl_pathv[0], '/') + 1);
	globfree(&all);
	return is;
}

// Our memory.

static void find_end_of_ram(void)
{
	char line[200];
	unsigned long long from, to;
	FILE *file = fopen("/proc/iomem", "r");
	while (file && fgets(line, sizeof line, file))
		if (strstr(line, ": System RAM") && sscanf(line, "%llx-%llx", &from, &to) == 2) end_of_ram = to + 1;
	if (file) fclose(file);
}

static uint8_t *page_of(int page) { return memory + page * PAGE; }

static void take_memory(void)
{
	put("0", "/proc/sys/vm/compact_unevictable_allowed");
	memory = mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
	int map = open("/proc/self/pagemap", O_RDONLY);
	if (memory == MAP_FAILED || map < 0) fail("locking memory");
	for (int page = 0; page < PAGES; page++) {
		uint64_t entry;
		// No address of memory, whatever is read of it; and a ring is empty.
		memset(page_of(page), page < TABLES ? 0 : 0xa5, PAGE);
		if (pread(map, &entry, 8, ((uintptr_t)memory / PAGE + page) * 8) != 8) fail("reading pagemap");
		physical[page] = (entry & ((1ull << 55) - 1)) * PAGE;
		if (!(entry >> 63) || !physical[page]) fail("page %d is nowhere", page);
	}
	close(map);
}

static int table_page(void) { return TABLES + any(ODD_TABLE - TABLES); }
static int data_page(void) { return DATA + any(PAGES - DATA); }

// Nowhere in memory: the hole for devices, behind all memory, and at the ends of what addresses there are.
static uint64_t nowhere(void)
{
	return ONE_OF(0xd0000000, 0xd0000007, 0xfee00000, 0xfffff000, 0xfffffffc, 1ull << 40, 1ull << 52, (1ull << 63) + 1, -1ull,
		-16ull, -4096ull);
}

// Registers.

#define REGISTER(device, offset, bits) (*(volatile uint##bits##_t *)((device)->at[COMMON] + (offset)))
static void set_address(struct device *device, int offset, uint64_t value)
{
	REGISTER(device, offset, 32) = value;
	REGISTER(device, offset + 4, 32) = value >> 32;
}

// Whether the device has ended all that it was doing, within ten seconds.
static int reset(struct device *device)
{
	REGISTER(device, STATUS, 8) = 0;
	for (int wait = 0; wait < 10000; wait++) {
		if (REGISTER(device, STATUS, 8) == 0) return 1;
		usleep(1000);
	}
	return 0;
}

static void notify(struct device *device, int queue)
{
	REGISTER(device, QUEUE_SELECT, 16) = queue;
	uint32_t offset = REGISTER(device, QUEUE_NOTIFY_OFF, 16) * device->notify_step;
	if (offset + 2 <= device->length[NOTIFY]) *(volatile uint16_t *)(device->at[NOTIFY] + offset) = queue;
}

// A write of any width where no driver writes. Addresses of queues become such that are not memory, or stay.
static void write_oddly(struct device *device)
{
	int where = ONE_OF(COMMON, NOTIFY, DEVICE, ISR), width = ONE_OF(1, 2, 4, 8);
	if (!device->at[where] || device->length[where] < 8) return;
	uint32_t offset = any((device->length[where] < PAGE ? device->length[where] : PAGE) - 7);
	uint64_t value = ONE_OF(0, 1, 0xffff, 0x80000000, -1ull, any(-1u));
	if (where == COMMON && offset + width > QUEUE_DESC && offset < COMMON_END) {
		offset = ONE_OF(QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE) + 4 + any(3);
		value = -1ull, width = 1;
	}
	volatile uint8_t *at = device->at[where] + offset;
	switch (width) {
	case 1: *at = value; break;
	case 2: *(volatile uint16_t *)at = value; break;
	case 4: *(volatile uint32_t *)at = value; break;
	default: *(volatile uint64_t *)at = value;
	}
	(void)*(volatile uint16_t *)at;
}

// Chains.

// What a device may read as a request: its kinds of requests, and nothing that would take memory from the guest. There is no
// address of memory in it, for a device may take it for a table.
static void fill(struct device *device, int page)
{
	uint32_t *words = (uint32_t *)page_of(page);
	int zeroes = any(8) == 0;
	for (int byte = 0; byte < PAGE; byte++) page_of(page)[byte] = zeroes ? 0 : 1 + any(255);
	switch (device->kind) {
	case BLOCK:
		words[0] = ONE_OF(0, 1, 4, 8, 11, 13, 99, -1u);
		words[2] = ONE_OF(0, 8, 2047, 2048, -1u), words[3] = any(8) ? 0 : -1u;
		break;
	case NET:
		// Checksums and segments that do not fit the frame.
		((uint8_t *)words)[0] = any(4), ((uint8_t *)words)[1] = ONE_OF(0, 1, 3, 4, 5, 0x81, 0xff);
		break;
	case BALLOON:
		for (int word = 0; word < PAGE / 4; word++)
			words[word] = any(2) ? -1u - any(1000) : physical[data_page()] / PAGE;
		break;
	case MEM:
		// Plugging and unplugging where no block is.
		words[0] = any(2) ? ONE_OF(0, 1, 3, 9) : 0, words[2] = any(-1u) | 1, words[3] = ONE_OF(0, -1u);
		break;
	case PMEM:
		words[0] = any(4) ? 0 : ONE_OF(1, -1u);
		break;
	}
}

// Whether chains are such as drivers send.
static int is_harmless;

static struct descriptor any_descriptor(struct device *device, unsigned position, unsigned count)
{
	int page = data_page();
	struct descriptor made = {
		.address = physical[page],
		.length = ONE_OF(1, 12, 16, 64, 512, PAGE),
		.flags = position + 1 < count ? NEXT : 0,
		.next = position + 1
	};
	fill(device, page);
	if (any(3) == 0 || position + 1 == count) made.flags |= WRITE;
	if (is_harmless) {
		if (position == 0 && count > 1) made.flags &= ~WRITE, made.length = device->kind == BLOCK ? 16 : 64;
		return made;
	}
	if (any(8) == 0) made.length = 0;
	if (any(12) == 0) made.address = nowhere(), made.length = ONE_OF(1, PAGE, 0x7fffffff, -1u);
	// Over the end of memory; only to be read, for the last page is not ours.
	if (any(24) == 0 && end_of_ram) made.address = end_of_ram - 16, made.length = ONE_OF(17, PAGE, -1u), made.flags &= ~WRITE;
	if (any(16) == 0) made.next = any(0x10000), made.flags |= NEXT;
	if (any(16) == 0) made.next = any(count), made.flags |= NEXT;
	if (any(24) == 0) made.flags ^= ONE_OF(NEXT, 0x8000, INDIRECT | NEXT);
	return made;
}

// Fills a table with a chain of requests of the device's kind and what goes wrong with them.
static void chain(struct device *device, struct descriptor *table, unsigned count, int may_be_indirect)
{
	for (unsigned position = 0; position < count; position++) {
		struct descriptor made = any_descriptor(device, position, count);
		if (!is_harmless && any(may_be_indirect ? 10 : 30) == 0) {
			int page = table_page();
			if (may_be_indirect) chain(device, (struct descriptor *)page_of(page), 1 + any(20), 0);
			made.address = any(8) ? physical[page] : physical[ODD_TABLE] + 1 + any(3);
			made.length = ONE_OF(0, 8, 16, 17, 160, PAGE, 65536 * 16, -16u);
			made.flags |= INDIRECT;
			// What lies behind the page is not ours to be read as a table.
			if (made.length > PAGE - 16) made.address = nowhere();
		}
		table[position] = made;
	}
}

static void set_up_queue(struct device *device, int queue, int well)
{
	REGISTER(device, QUEUE_SELECT, 16) = queue;
	uint16_t most = REGISTER(device, QUEUE_SIZE, 16);
	uint16_t size = most < DESCRIPTORS ? most : DESCRIPTORS;
	if (!well) size = ONE_OF(size, size, size, 1, 2, 0, 3, 65535, most * 2);
	REGISTER(device, QUEUE_SIZE, 16) = size;
	REGISTER(device, QUEUE_VECTOR, 16) = well ? 0xffff : ONE_OF(0xffff, 0, 1, 0x7ff);
	for (int part = 0; part < 3; part++) {
		uint64_t address = physical[queue * 3 + part];
		if (!well && any(8) == 0) address = nowhere();
		// The device does not write to descriptors and to the ring of what is available.
		if (!well && any(12) == 0 && part < 2 && end_of_ram) address = end_of_ram - 16;
		// Unaligned; it stays in the page, for queues of other sizes are not set up.
		if (!well && any(12) == 0 && size <= DESCRIPTORS / 4) address += 1 + any(30);
		set_address(device, QUEUE_DESC + part * 8, address);
	}
	memset(page_of(queue * 3), 0, 3 * PAGE);
	published[queue] = 0;
	REGISTER(device, QUEUE_ENABLE, 16) = well ? 1 : ONE_OF(1, 1, 1, 2, 0);
}

static void publish(struct device *device, int queue, int count)
{
	uint16_t *available = (uint16_t *)page_of(queue * 3 + 1);
	struct descriptor *table = (struct descriptor *)page_of(queue * 3);
	is_harmless = any(2);
	chain(device, table, is_harmless || any(3) ? 1 + any(6) : DESCRIPTORS, 1);
	available[0] = any(2);
	for (int entry = 0; entry < count; entry++)
		available[2 + (published[queue] + entry) % DESCRIPTORS] = is_harmless ? 0 : any(10) ? any(6) : any(0x10000);
	published[queue] += is_harmless || any(12) ? (uint64_t)count : ONE_OF(DESCRIPTORS + 1, 0x8000, 0xffff, any(0x10000));
	__sync_synchronize();
	available[1] = published[queue];
	__sync_synchronize();
}

static void set_up(struct device *device, int well)
{
	uint32_t queues = REGISTER(device, NUM_QUEUES, 16);
	REGISTER(device, STATUS, 8) = ACKNOWLEDGE | DRIVER;
	for (int half = 0; half < 2; half++) {
		REGISTER(device, DEVICE_FEATURE_SELECT, 32) = half;
		uint32_t features = REGISTER(device, DEVICE_FEATURE, 32);
		if (!well && any(2)) features &= any(-1u) | (half ? 1 : 0);
		if (!well && any(16) == 0) features = any(-1u);
		REGISTER(device, DRIVER_FEATURE_SELECT, 32) = half;
		REGISTER(device, DRIVER_FEATURE, 32) = features;
	}
	if (well || any(16)) REGISTER(device, STATUS, 8) = ACKNOWLEDGE | DRIVER | FEATURES_OK;
	for (uint32_t queue = 0; queue < queues && queue < QUEUES; queue++) set_up_queue(device, queue, well);
	REGISTER(device, STATUS, 8) = well || any(16) ? ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK : ONE_OF(DRIVER_OK, FEATURES_OK, NEEDS_RESET, 128, 255);
}

// One round: a device that is set up more or less well, some requests, and its end.
static int torment(struct device *device)
{
	if (!reset(device)) return 0;
	set_up(device, any(3));
	for (int step = 1 + any(8); step > 0; step--) {
		int queue = any(QUEUES);
		publish(device, queue, 1 + any(4));
		notify(device, any(8) ? queue : (int)ONE_OF(QUEUES, 100, 0xffff));
		if (any(6) == 0) write_oddly(device);
		if (any(4) == 0) usleep(any(300));
		// Now and then it hears more although it is broken.
		if (REGISTER(device, STATUS, 8) & NEEDS_RESET && any(6)) break;
	}
	// Half of the time in the middle of what it does.
	if (any(2)) usleep(any(3000));
	for (int queue = 0; queue < QUEUES; queue++) {
		uint16_t *used = (uint16_t *)page_of(queue * 3 + 2);
		device->returned += used[1];
		used[1] = 0;
	}
	device->broken += (REGISTER(device, STATUS, 8) & NEEDS_RESET) != 0;
	return reset(device);
}

// Taking devices, and giving them back.

static uint32_t read_config(int file, int offset, int width)
{
	uint32_t value = 0;
	if (pread(file, &value, width, offset) != width) fail("reading configuration space");
	return value;
}

static int open_config(struct device *device)
{
	char path[300];
	snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/config", device->address);
	int file = open(path, O_RDWR);
	if (file < 0) fail("opening %s", path);
	return file;
}

// Takes the device from its driver, and maps its registers.
static void take(struct device *device)
{
	char path[300];
	if (!put(device->address, "/sys/bus/pci/drivers/%s/unbind", device->driver)) fail("unbinding %s", device->address);
	if (!put("1", "/sys/bus/pci/devices/%s/enable", device->address)) fail("enabling %s", device->address);
	int config = open_config(device);
	// Memory, bus master, no INTx: nobody would hear it.
	uint16_t command = read_config(config, 4, 2) | 0x406;
	if (pwrite(config, &command, 2, 4) != 2) fail("writing the command register");
	for (int at = read_config(config, 0x34, 1), hops = 0; at >= 0x40 && hops < 48; at = read_config(config, at + 1, 1), hops++) {
		uint32_t kind = read_config(config, at + 3, 1), bar = read_config(config, at + 4, 1);
		if (read_config(config, at, 1) != 9 || kind < COMMON || kind > DEVICE || device->at[kind]) continue;
		uint32_t offset = read_config(config, at + 8, 4), length = read_config(config, at + 12, 4);
		if (kind == NOTIFY) device->notify_step = read_config(config, at + 16, 4);
		snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/resource%u", device->address, bar);
		int file = open(path, O_RDWR);
		uint32_t within = offset % PAGE;
		uint8_t *mapped = mmap(0, within + length, PROT_READ | PROT_WRITE, MAP_SHARED, file, offset - within);
		if (mapped == MAP_FAILED) fail("mapping %s", path);
		close(file);
		device->at[kind] = mapped + within, device->length[kind] = length;
	}
	close(config);
	if (!device->at[COMMON] || !device->at[NOTIFY]) fail("%s has no registers", device->address);
}

static void give_back(struct device *device)
{
	int config = open_config(device);
	uint16_t command = read_config(config, 4, 2) & ~0x406;
	if (pwrite(config, &command, 2, 4) != 2) fail("writing the command register");
	close(config);
	for (int kind = COMMON; kind < KINDS; kind++)
		if (device->at[kind])
			munmap((void *)((uintptr_t)device->at[kind] & -PAGE), ((uintptr_t)device->at[kind] & (PAGE - 1)) + device->length[kind]);
	put("0", "/sys/bus/pci/devices/%s/enable", device->address);
	if (!put(device->address, "/sys/bus/pci/drivers/%s/bind", device->driver)) fail("binding %s", device->address);
}

// What a device does that works.

static int block_works(const char *name)
{
	char path[80];
	static uint8_t written[PAGE] __attribute__((aligned(PAGE))), read_back[PAGE] __attribute__((aligned(PAGE)));
	snprintf(path, sizeof path, "/dev/%s", name);
	int file = -1;
	for (int wait = 0; wait < 100 && file < 0; wait++, usleep(50000)) file = open(path, O_RDWR | O_DIRECT);
	for (int at = 0; at < PAGE; at++) written[at] = any(256);
	int works = file >= 0 && pwrite(file, written, PAGE, PAGE) == PAGE && fsync(file) == 0
		&& pread(file, read_back, PAGE, PAGE) == PAGE && !memcmp(written, read_back, PAGE);
	if (file >= 0) close(file);
	return works;
}

// Asks the router for its address, and waits for the answer.
static int net_works(const char *name)
{
	struct ifreq ask = {0};
	struct { uint8_t to[6], from[6]; uint16_t type, hardware, protocol; uint8_t lengths[2]; uint16_t what; uint8_t mac[6], ip[4], mac_to[6], ip_to[4]; uint8_t pad[18]; }
		__attribute__((packed)) frame = {
			.to = {255, 255, 255, 255, 255, 255}, .type = htons(ETH_P_ARP), .hardware = htons(1), .protocol = htons(ETH_P_IP),
			.lengths = {6, 4}, .what = htons(1), .ip = {10, 0, 2, 15}, .ip_to = {10, 0, 2, 2}
		}, heard;
	int file = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ARP));
	strncpy(ask.ifr_name, name, IFNAMSIZ - 1);
	if (file < 0 || ioctl(file, SIOCGIFHWADDR, &ask)) return 0;
	memcpy(frame.from, ask.ifr_hwaddr.sa_data, 6);
	memcpy(frame.mac, frame.from, 6);
	if (ioctl(file, SIOCGIFFLAGS, &ask)) return 0;
	ask.ifr_flags |= IFF_UP;
	if (ioctl(file, SIOCSIFFLAGS, &ask) || ioctl(file, SIOCGIFINDEX, &ask)) return 0;
	struct sockaddr_ll place = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ARP), .sll_ifindex = ask.ifr_ifindex};
	int works = 0;
	for (int attempt = 0; !works && attempt < 20 && !bind(file, (void *)&place, sizeof place); attempt++) {
		struct pollfd wait = {.fd = file, .events = POLLIN};
		(void)!send(file, &frame, sizeof frame, 0);
		while (!works && poll(&wait, 1, 300) > 0 && recv(file, &heard, sizeof heard, 0) >= 42)
			works = heard.what == htons(2) && !memcmp(heard.ip, frame.ip_to, 4);
	}
	close(file);
	return works;
}

static int rng_works(void)
{
	uint8_t bytes[16], zeroes[16] = {0};
	int file = open("/dev/hwrng", O_RDONLY);
	int works = file >= 0 && read(file, bytes, sizeof bytes) == sizeof bytes && memcmp(bytes, zeroes, sizeof bytes);
	if (file >= 0) close(file);
	return works;
}

// Whether it is a virtio device of the guest's, and has what such a device has with a driver.
static int is_bound(struct device *device, const char *sign)
{
	char name[64];
	return found(name, sizeof name, "/sys/bus/pci/devices/%s/virtio*%s", device->address, sign);
}

// Whether the driver has it again, and what it is for can be done.
static int works(struct device *device)
{
	char name[64];
	const char *pci = "/sys/bus/pci/devices", *sign = device->had_driver ? "/driver/bind" : "";
	for (int wait = 0; wait < 100 && !is_bound(device, sign); wait++) usleep(50000);
	if (!is_bound(device, sign)) return 0;
	if (!device->had_driver) return 1;
	switch (device->kind) {
	case BLOCK: return found(name, sizeof name, "%s/%s/virtio*/block/*", pci, device->address) && block_works(name);
	case NET: return found(name, sizeof name, "%s/%s/virtio*/net/*", pci, device->address) && net_works(name);
	case RNG: return rng_works();
	// The disk that its driver makes of the memory, whose writes are flushed by the device.
	case PMEM: return block_works("pmem0");
	default: return 1;
	}
}

static int is_mounted(struct device *device)
{
	char name[64], line[300], start[80];
	int is = 0;
	if (!found(name, sizeof name, "/sys/bus/pci/devices/%s/virtio*/block/*", device->address)) return 0;
	snprintf(start, sizeof start, "/dev/%s", name);
	FILE *file = fopen("/proc/mounts", "r");
	while (file && fgets(line, sizeof line, file))
		is |= !strncmp(line, start, strlen(start)) || !strncmp(line, "/dev/root ", 10);
	if (file) fclose(file);
	return is;
}

// The kind of a device that is to be taken, or 0.
static int examine(struct device *device)
{
	char link[300], target[300] = {0};
	struct { uint16_t vendor, id; } ids;
	int config = open_config(device);
	if (pread(config, &ids, 4, 0) != 4) fail("reading configuration space");
	uint32_t subsystem = read_config(config, 0x2e, 2);
	close(config);
	if (ids.vendor != 0x1af4) return 0;
	device->kind = ids.id >= 0x1040 ? ids.id - 0x1040 : (int)subsystem;
	snprintf(link, sizeof link, "/sys/bus/pci/devices/%s/driver", device->address);
	if (readlink(link, target, sizeof target - 1) < 0) return 0;
	snprintf(device->driver, sizeof device->driver, "%s", strrchr(target, '/') + 1);
	device->had_driver = is_bound(device, "/driver/bind");
	return device->kind != CONSOLE && !is_mounted(device);
}

int main(int count, char **arguments)
{
	uint64_t seed = count > 1 ? strtoull(arguments[1], 0, 10) : 1;
	int rounds = count > 2 ? atoi(arguments[2]) : 100, failed = 0;
	struct dirent **entries;
	setvbuf(stdout, 0, _IOLBF, 0);
	find_end_of_ram();
	take_memory();
	int devices = scandir("/sys/bus/pci/devices", &entries, 0, alphasort);
	for (int number = 0; number < devices; number++) {
		struct device device = {0};
		if (entries[number]->d_name[0] == '.') continue;
		strncpy(device.address, entries[number]->d_name, sizeof device.address - 1);
		if (!examine(&device)) continue;
		state = (seed * 64 + device.kind) * 0x9e3779b97f4a7c15ull | 1;
		take(&device);
		int round = 0, ended = 1;
		while (round < rounds && ended) ended = torment(&device), round++;
		give_back(&device);
		int good = ended && works(&device);
		printf("virtio %d at %s: %s after %d rounds, %u chains came back, %u times to be reset\n", device.kind,
			device.address, !ended ? "does not reset" : good ? "works" : "does not work", round, device.returned,
			device.broken);
		failed |= !good;
	}
	return failed;
}
