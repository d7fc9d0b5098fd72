//go:build linux || darwin || freebsd

package preflight

import "golang.org/x/sys/unix"

// diskSize returns the size of the file system of dir in bytes; found is false if that is unknown.
func diskSize(dir string) (size uint64, found bool) {
	var s unix.Statfs_t
	if dir == "" || unix.Statfs(dir, &s) != nil {
		return 0, false
	}
	return s.Blocks * uint64(s.Bsize), true
}
