package settings

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name           string
		args           []string
		run            func(ctx context.Context, end func()) error
		code           int
		stdout, stderr string // what they hold
	}{
		{"ends well", nil, func(context.Context, func()) error { return nil }, 0, "", ""},
		{"fails", nil, func(context.Context, func()) error { return errors.New("dial nats://u:SEKRET@host: no") }, 1, "", "test: dial nats://[redacted]@host: no\n"},
		{"asked to end", nil, func(ctx context.Context, end func()) error {
			end()
			<-ctx.Done()
			return fmt.Errorf("serve: %w", ctx.Err())
		}, 0, "", ""},
		{"canceled by itself", nil, func(context.Context, func()) error { return context.Canceled }, 1, "", "context canceled"},
		{"fails while it ends", nil, func(_ context.Context, end func()) error { end(); return errors.New("disk full") }, 1, "", "disk full"},
		{"unknown flag", []string{"--nope"}, nil, 2, "", "unknown flag --nope"},
		{"settings refused by run", nil, func(context.Context, func()) error {
			return fmt.Errorf("load: %w", NewError(Fault("component-appid", "no component")))
		}, 2, "", "--component-appid (WXTOKEN_COMPONENT_APPID): no component\ntest --help lists every setting.\n"},
		{"help", []string{"--help", "--nope"}, nil, 0, "--log-level=info  WXTOKEN_LOG_LEVEL", ""},
		{"short help", []string{"-h"}, nil, 0, "Usage: test", ""},
		{"check", []string{"--check", "--log-level=warn"}, nil, 1, "FAIL nats", "test: 1 of 1 checks failed\n"},
		{"check with settings that are refused", []string{"--check", "--log-level=loud"}, nil, 2, "", "--log-level (WXTOKEN_LOG_LEVEL)"},
		{"version", []string{"--version"}, nil, 0, "test (", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			ctx, end := context.WithCancel(t.Context())
			defer end()
			var stdout, stderr bytes.Buffer
			run := func(ctx context.Context) error { return row.run(ctx, end) }
			code := Program{Name: "test"}.main(ctx, &Operations{}, row.args, &stdout, &stderr, run, func(_ context.Context, out io.Writer) error {
				_, _ = io.WriteString(out, "FAIL nats\n")
				return errors.New("1 of 1 checks failed")
			})
			if code != row.code {
				t.Errorf("exit code %d, want %d; stderr:\n%s", code, row.code, stderr.String())
			}
			for _, out := range []struct{ name, got, want string }{{"stdout", stdout.String(), row.stdout}, {"stderr", stderr.String(), row.stderr}} {
				if (out.want == "") != (out.got == "") || !strings.Contains(out.got, out.want) {
					t.Errorf("%s: got %q, want %q in it", out.name, out.got, out.want)
				}
			}
			if strings.Contains(stderr.String(), "SEKRET") {
				t.Errorf("a secret is shown: %s", stderr.String())
			}
		})
	}
}

// What the linker set comes before what the build knows of itself. No other test reads the two
// while this one runs.
func TestLinkedVersion(t *testing.T) {
	linkedVersion, linkedCommit = "v1.2.3", "0123abc"
	defer func() { linkedVersion, linkedCommit = "", "" }()
	if line := VersionLine(); !strings.HasPrefix(line, "v1.2.3 (commit 0123abc, go1.") {
		t.Errorf("version %q", line)
	}
}
