package webhooks

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"

	"wxtoken/internal/natsd/natsdtest"
)

// TestGatewayKilled ends a process that delivers with SIGKILL, and another takes over: nothing is lost, and each account's messages come in order.
func TestGatewayKilled(t *testing.T) {
	t.Parallel()
	const accounts, each = 5, 60
	r := newRig(t, natsdtest.StartTCP(t))
	in := newReceiver(t, func(string, http.Header) (int, string) {
		time.Sleep(5 * time.Millisecond)
		return 200, ""
	})
	r.serve([]webhook{{URL: in.URL, Messages: []string{component + "/*/*"}}})
	start := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "DELIVER_FROM="+r.srv.ClientURL(), "DELIVER_FOR="+r.file)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	kill := func(cmd *exec.Cmd) {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	cmd := start()
	defer func() { kill(cmd) }()
	r.ready(1)
	for n := 1; n <= each; n++ {
		for a := range accounts {
			r.message(fmt.Sprintf("wx%d", a), fmt.Sprintf("wx%d %d", a, n))
		}
		if n == each/2 { // the next one takes over when the pin of this one ends, after half a minute
			before := len(in.accepted())
			eventually(t, "deliveries", func() bool { return len(in.accepted()) > before+accounts })
			kill(cmd)
			cmd = start()
		}
	}
	eventually(t, "all of them", func() bool { return len(in.accepted()) >= accounts*each })
	checkOrder(t, in.accepted(), accounts, each)
}
