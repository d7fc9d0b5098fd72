//go:build unix

package login_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"wxtoken/internal/login"
)

// TestMakeKeepsOwner: a file that another user reads stays that user's when root changes it.
func TestMakeKeepsOwner(t *testing.T) {
	t.Parallel()
	c := login.Config{UsersFile: filepath.Join(t.TempDir(), "users.json"), MakeConsoleUser: "li:admin"}
	if _, err := c.MakeUser(); err != nil {
		t.Fatal(err)
	}
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		uid, gid = 65532, 65533
	}
	if err := os.Chown(c.UsersFile, uid, gid); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(c.UsersFile, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := c.MakeUser(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(c.UsersFile)
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || int(s.Uid) != uid || int(s.Gid) != gid || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %+v, want %d %d", info.Mode(), info.Sys(), uid, gid)
	}
}
