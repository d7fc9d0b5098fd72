// Package transfer imports authorizations from another system, and exports them to one: as files of
// JSON Lines, one authorization a line.
package transfer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
	"wxtoken/internal/events"
	"wxtoken/internal/store"
)

// maxLine bounds one line of a file of authorizations, in bytes.
const maxLine = 64 << 10

// authorization is one line of such a file.
type authorization struct {
	Component    string   `json:"component_appid"`
	Authorizer   string   `json:"authorizer_appid"`
	RefreshToken string   `json:"refresh_token"`
	AuthTime     authTime `json:"auth_time,omitzero"`
	Ref          string   `json:"ref,omitempty"`

	line int // its number in the file
}

// authTime is WeChat's auth_time in seconds since 1970, or a time in RFC 3339.
type authTime struct{ time.Time }

// UnmarshalJSON reads either form.
func (m *authTime) UnmarshalJSON(text []byte) error {
	s := strings.Trim(string(text), `"`)
	if s == "" || s == "null" || s == "0" {
		return nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		m.Time = time.Unix(n, 0).UTC()
		return nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return errors.New("auth_time: want seconds since 1970 or RFC 3339")
	}
	m.Time = t.UTC()
	return nil
}

func (l authorization) key() wxtoken.Key { return wxtoken.AuthorizerKey(l.Component, l.Authorizer) }

// readAuthorizations reads a whole file. The error names every faulty line and shows none of it.
func readAuthorizations(in io.Reader, components []string, now time.Time) (all []authorization, err error) {
	var faults []error
	seen := map[wxtoken.Key]int{}
	lines := bufio.NewReaderSize(in, maxLine)
	for n := 1; ; n++ {
		text, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			return all, errors.Join(faults...)
		}
		if n == 1 {
			text = bytes.TrimPrefix(text, []byte("\ufeff")) // editors on Windows write it
		}
		var line authorization
		if err == nil {
			if text = bytes.TrimSpace(text); len(text) == 0 {
				continue
			}
			line, err = parseAuthorization(text, components, now)
		} else if !errors.Is(err, errLongLine) {
			return nil, errors.Join(append(faults, fmt.Errorf("read the file: %w", err))...)
		}
		if before := seen[line.key()]; err == nil && before > 0 {
			err = fmt.Errorf("the account is on line %d already", before)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("line %d: %w", n, err))
			continue
		}
		seen[line.key()], line.line = n, n
		all = append(all, line)
	}
}

var errLongLine = fmt.Errorf("longer than %d bytes", maxLine)

// readLine returns the next line, io.EOF after the last. It skips a line that is too long and
// returns errLongLine.
func readLine(lines *bufio.Reader) (text []byte, err error) {
	text, err = lines.ReadSlice('\n')
	long := errors.Is(err, bufio.ErrBufferFull)
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = lines.ReadSlice('\n')
	}
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return nil, err
	case long:
		return nil, errLongLine
	case err != nil && len(text) == 0:
		return nil, io.EOF
	}
	return text, nil
}

// firstAuthTime is earlier than every authorization: WeChat had no accounts yet.
var firstAuthTime = time.Date(2011, 1, 1, 0, 0, 0, 0, time.UTC)

func parseAuthorization(text []byte, components []string, now time.Time) (authorization, error) {
	var line struct {
		authorization
		AlsoRefreshToken string `json:"authorizer_refresh_token"` // the name in most SDKs
	}
	if err := json.Unmarshal(text, &line); err != nil {
		if strings.HasPrefix(err.Error(), "auth_time") {
			return authorization{}, err
		}
		return authorization{}, errors.New("not the JSON of an authorization")
	}
	if line.RefreshToken == "" {
		line.RefreshToken = line.AlsoRefreshToken
	}
	if line.Component == "" && len(components) == 1 {
		line.Component = components[0]
	}
	switch {
	case !slices.Contains(components, line.Component):
		return authorization{}, errors.New("component_appid: missing, or not in the settings")
	case !wxtoken.ValidAppID(line.Authorizer):
		return authorization{}, errors.New("authorizer_appid: missing, or not an appid")
	case line.RefreshToken == "" || len(line.RefreshToken) > 2048 ||
		strings.ContainsFunc(line.RefreshToken, func(c rune) bool { return c <= ' ' || c > '~' }):
		return authorization{}, errors.New("refresh_token: missing, or not a refresh token")
	case !line.AuthTime.IsZero() && (line.AuthTime.Before(firstAuthTime) || line.AuthTime.After(now.Add(24*time.Hour))):
		return authorization{}, errors.New("auth_time: before 2011 or in the future: want seconds since 1970 or RFC 3339")
	case len(line.Ref) > account.MaxRef:
		return authorization{}, fmt.Errorf("ref: longer than %d bytes", account.MaxRef)
	}
	return line.authorization, nil
}

// The fates of a line in Import, the keys of ImportReport.Fates.
const (
	importNew       = "new"
	importNewer     = "newer"
	importRef       = "ref"       // only the ref is new
	importSame      = "same"      // nothing to do
	importOlder     = "older"     // the stored one is as new, or newer: left alone
	importCancelled = "cancelled" // the account cancelled later: left alone
	importOtherRef  = "other_ref" // the account has another ref: left alone
)

// maxNamed bounds how many lines a report names.
const maxNamed = 100

// ImportReport says what was done with the lines, or would be done with them.
type ImportReport struct {
	Applied bool           `json:"applied"`
	Lines   int            `json:"lines"`
	Fates   map[string]int `json:"fates"`
	// LeftAlone has the numbers of the first lines that were not imported because a newer
	// authorization, or another ref, is stored.
	LeftAlone []int `json:"left_alone,omitempty"`
}

// Import imports authorizations from JSON Lines. It never replaces one that is as new or newer.
// Without apply it only reports what it would do. A file with a faulty line is not imported at all;
// the error names every faulty line. Running refreshers renew imported authorizations at once.
func Import(ctx context.Context, s *store.Store, now func() time.Time, in io.Reader, components []string, apply bool) (ImportReport, error) {
	report := ImportReport{Applied: apply, Fates: map[string]int{}}
	lines, err := readAuthorizations(in, components, now())
	if err != nil {
		return report, fmt.Errorf("import: nothing imported: %w", err)
	}
	report.Lines = len(lines)
	for _, line := range lines {
		fate, err := importLine(ctx, s, now, line, apply)
		if err != nil {
			return report, fmt.Errorf("import %s: %w", line.key(), err)
		}
		report.Fates[fate]++
		if slices.Contains([]string{importOlder, importCancelled, importOtherRef}, fate) && len(report.LeftAlone) < maxNamed {
			report.LeftAlone = append(report.LeftAlone, line.line)
		}
	}
	return report, nil
}

func importLine(ctx context.Context, s *store.Store, now func() time.Time, line authorization, apply bool) (fate string, err error) {
	for {
		cred, err := s.Credential(ctx, line.key())
		if err != nil && !errors.Is(err, store.ErrUnreadable) {
			return "", err
		}
		// An import may have died before it wrote the status.
		if fate = importFate(cred, line); apply && fate == importSame {
			return fate, s.UpdateStatus(ctx, cred.Key, account.AuthorizedAt(cred.AuthorizedAt, cred.Ref))
		}
		if !apply || !slices.Contains([]string{importNew, importNewer, importRef}, fate) {
			return fate, nil
		}
		if !cred.ClaimedAt(now()) {
			err = importStore(ctx, s, cred, line)
			if !errors.Is(err, store.ErrLost) {
				return fate, err
			}
		}
		select { // a refresher has claimed it: wait
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(account.ClaimedDelay):
		}
	}
}

func importFate(cred account.Credential, line authorization) string {
	switch {
	case !cred.RevokedAt.IsZero() && !line.AuthTime.After(cred.RevokedAt):
		return importCancelled
	case line.Ref != "" && cred.Ref != "" && line.Ref != cred.Ref && cred.RevokedAt.IsZero():
		return importOtherRef
	case cred.RefreshToken == line.RefreshToken && (line.Ref == "" || cred.Ref == line.Ref):
		return importSame
	case cred.RefreshToken == line.RefreshToken:
		return importRef
	case cred.RefreshToken == "":
		return importNew
	case !cred.AuthorizedAt.IsZero() && line.AuthTime.After(cred.AuthorizedAt):
		return importNewer
	}
	return importOlder // also if the stored one's time is not known: then it was exchanged here
}

func importStore(ctx context.Context, s *store.Store, cred account.Credential, line authorization) error {
	known := cred.RefreshToken == line.RefreshToken
	t, _, err := s.Token(ctx, cred.Key)
	if err != nil && !errors.Is(err, wxtoken.ErrBadToken) {
		return err
	}
	cred = cred.Imported(line.RefreshToken, line.Ref, line.AuthTime.Time, t.Generation)
	if cred, err = s.Save(ctx, cred); err != nil {
		return err
	}
	if err := s.UpdateStatus(ctx, cred.Key, account.AuthorizedAt(cred.AuthorizedAt, cred.Ref)); err != nil {
		return err
	}
	if known {
		return nil
	}
	return s.MakeDue(ctx, events.Due{Key: cred.Key, Generation: cred.Generation, Reason: events.ReasonImported}, "")
}

// Export writes all authorizations that are in force as JSON Lines, as Import reads them, and
// returns how many. Keep its output secret: the refresh tokens in it open all accounts.
func Export(ctx context.Context, s *store.Store, out io.Writer) (n int, err error) {
	all, err := s.Credentials(ctx)
	if err != nil {
		return 0, err
	}
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	byText := func(a, b wxtoken.Key) int { return strings.Compare(a.String(), b.String()) }
	for _, key := range slices.SortedFunc(maps.Keys(all), byText) {
		cred := all[key]
		if !account.KindOf(key).OfMerchant || !cred.Renewable() {
			continue
		}
		line := authorization{
			Component: key.Component, Authorizer: key.Authorizer, RefreshToken: cred.RefreshToken,
			AuthTime: authTime{cred.AuthorizedAt}, Ref: cred.Ref,
		}
		if err := encoder.Encode(line); err != nil {
			return n, fmt.Errorf("export: %w", err)
		}
		n++
	}
	return n, ctx.Err()
}
