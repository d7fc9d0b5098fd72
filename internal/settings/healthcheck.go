package settings

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// healthcheckFlag makes the program ask a running process, at the ops-addr of the same settings, whether it is
// ready. An image without a shell has no other program for that.
const healthcheckFlag = "--healthcheck"

const (
	healthcheckTimeout = 5 * time.Second
	maxHealthcheck     = 4 << 10 // bytes of an answer that are read
)

// healthcheck returns nil if the process with these settings answers that it is ready.
func (p Program) healthcheck(ctx context.Context, cfg any, args []string) error {
	if err := p.Parse(cfg, without(args, healthcheckFlag)); err != nil {
		return err
	}
	k, err := p.model(cfg)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(k.Model.Flags, func(f *kong.Flag) bool { return f.Name == "ops-addr" })
	if i < 0 {
		return fmt.Errorf("%s has no ops-addr to ask", p.Name)
	}
	addr := k.Model.Flags[i].Target.String()
	if _, port, err := net.SplitHostPort(addr); err != nil || port == "0" {
		return NewError(Fault("ops-addr", "%q: %s wants the address with its port", addr, healthcheckFlag))
	}
	ctx, cancel := context.WithTimeout(ctx, healthcheckTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
	if err != nil {
		return fmt.Errorf("ask whether %s is ready: %w", p.Name, err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy either
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask whether %s is ready: %w", p.Name, err)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxHealthcheck))
	if err = errors.Join(err, answer.Body.Close()); err != nil {
		return fmt.Errorf("ask whether %s is ready: %w", p.Name, err)
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", strings.TrimSpace(string(body)))
	}
	return nil
}
