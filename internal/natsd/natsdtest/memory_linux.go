package natsdtest

import "syscall"

// memoryDir is Linux's file system in memory.
const memoryDir = "/dev/shm"

// hasRoom reports whether dir has room for the data of many servers. In a container it may have
// only 64 MB.
func hasRoom(dir string) bool {
	const enough = 1 << 30 // bytes
	var s syscall.Statfs_t
	return syscall.Statfs(dir, &s) == nil && s.Bavail*uint64(s.Bsize) > enough
}
