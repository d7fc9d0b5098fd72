package systemtest

import (
	"testing"
	"time"

	"wxtoken/internal/wechatsim"
)

func TestSmoke(t *testing.T) {
	w := newWorld(t, wechatsim.Config{TokenLife: 10 * time.Second, TicketEvery: 3 * time.Second})
	w.cfg.SweepEvery = time.Second
	w.start()
	w.eventually(20*time.Second, func() error {
		return func() error {
			if w.sim.Truth(testAppID, "").Token == "" {
				return errTest("no component token")
			}
			return nil
		}()
	})
	if err := w.sim.Authorize(testAppID, account(1)); err != nil {
		t.Fatal(err)
	}
	w.eventually(10*time.Second, func() error { return w.accepted(account(1)) })
	w.eventually(30*time.Second, func() error {
		if g := w.sim.Truth(testAppID, account(1)).Generation; g < 3 {
			return errTest("still generation")
		}
		return w.accepted(account(1))
	})
	t.Log(w.log.String())
}

type errTest string

func (e errTest) Error() string { return string(e) }
