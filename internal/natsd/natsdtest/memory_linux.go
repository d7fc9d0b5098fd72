package natsdtest

import "syscall"

// memoryDir is a file system in memory, as Linux has it.
const memoryDir = "/dev/shm"

// roomy reports whether there is room for the data of many servers. A container may have 64 MB
// there.
func roomy(dir string) bool {
	const enough = 1 << 30 // bytes
	var s syscall.Statfs_t
	return syscall.Statfs(dir, &s) == nil && s.Bavail*uint64(s.Bsize) > enough
}
