/* Holds a block device as mkfs and RAID do: open with O_EXCL, which nobody else may then do. Says so
 * and stays until it is killed. No program of busybox does this. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(int count, char **arguments)
{
	if (count != 2 || open(arguments[1], O_RDONLY | O_EXCL) < 0) {
		perror(count == 2 ? arguments[1] : "hold DEVICE");
		return 1;
	}
	puts("holding");
	fflush(stdout);
	for (;;)
		pause();
}
