//go:build crash

package settings

import (
	"os"
	"strconv"
	"strings"
	"sync"
)

// CrashAt reads the variable WXTOKEN_CRASH, "<step>:<n>", and returns a function that packages call at each of
// their steps. When the named step is reached for the n-th time, the process kills itself with SIGKILL, as a
// power cut or an out-of-memory kill would: nothing is flushed and no connection is closed. Tests of real
// processes choose the moment with it. Without the variable it returns nil.
func CrashAt() func(step string) {
	at, count, ok := strings.Cut(os.Getenv(Variable("crash")), ":")
	left, err := strconv.Atoi(count)
	if !ok || err != nil || left < 1 {
		return nil
	}
	var mu sync.Mutex
	return func(step string) {
		if step != at {
			return
		}
		mu.Lock() // not released the last time: a dead process reaches no step
		left--
		if left > 0 {
			mu.Unlock()
			return
		}
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Kill()
		}
		if err != nil {
			panic(err)
		}
		select {} // the signal is on its way
	}
}
