//go:build unix

package login

import (
	"os"
	"syscall"
)

// keepOwner gives a file the mode of the one that it takes the place of, and its owner where this user may: root
// makes users for a refresher that runs as another user.
func keepOwner(file *os.File, before os.FileInfo) error {
	if s, ok := before.Sys().(*syscall.Stat_t); ok {
		_ = file.Chown(int(s.Uid), int(s.Gid))
	}
	return file.Chmod(before.Mode().Perm())
}
