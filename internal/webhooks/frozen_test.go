//go:build unix

package webhooks

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"wxtoken/internal/natsd/natsdtest"
)

// TestGatewayFrozen stops a process that delivers with SIGSTOP until another one has taken over, and lets it go on then: nothing is lost, each
// account's messages come in order, and the one that slept delivers nothing but what it was at.
func TestGatewayFrozen(t *testing.T) {
	t.Parallel()
	const accounts, each = 5, 40
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
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // a process that is stopped, too
			_ = cmd.Wait()
		})
		return cmd
	}
	write := func(from, to int) {
		for n := from; n <= to; n++ {
			for a := range accounts {
				r.message(fmt.Sprintf("wx%d", a), fmt.Sprintf("wx%d %d", a, n))
			}
		}
	}
	first := start()
	r.ready(1)
	write(1, each/2)
	eventually(t, "deliveries", func() bool { return len(in.accepted()) > accounts })
	if err := first.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	start()
	write(each/2+1, each-5)
	eventually(t, "the other one to deliver", func() bool { return len(in.accepted()) == accounts*(each-5) })
	before := in.arrivals()
	if err := first.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	write(each-4, each)
	eventually(t, "all of them", func() bool { return len(in.accepted()) == accounts*each })
	time.Sleep(3 * time.Second) // not for a result: it gives the one that slept an occasion to do wrong
	checkOrder(t, in.accepted(), accounts, each)
	late := map[string]int{}
	for _, body := range in.arrivals()[len(before):] {
		account, _, _ := strings.Cut(body, " ")
		late[account]++
	}
	for account, n := range late {
		if n > 5+2 { // those that are new, and what the one that slept was at: in the middle of a request, and at its begin
			t.Errorf("%d deliveries of %s after the one that slept went on, want 5, or a few more", n, account)
		}
	}
}

// arrivals are the bodies that came, in order.
func (r *receiver) arrivals() (bodies []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range r.all {
		bodies = append(bodies, g.body)
	}
	return bodies
}
