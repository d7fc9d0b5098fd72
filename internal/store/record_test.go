package store

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/account"
)

// FuzzCredential reads any record: what can be read is written and read again as the same.
func FuzzCredential(f *testing.F) {
	key := wxtoken.AuthorizerKey("wxc", "wxa")
	full := account.Credential{
		Key: key, Generation: 7, Ticket: "t", TicketCreatedAt: time.Unix(1, 0).UTC(), TicketReceivedAt: time.Unix(2, 0).UTC(),
		RefreshToken: "r", AuthorizedAt: time.Unix(3, 0).UTC(), CodeDigest: "d", Ref: "ref", RevokedAt: time.Unix(4, 0).UTC(),
		Claim: &account.Claim{By: "me", For: "due/1", Until: time.Unix(5, 0).UTC()}, Trouble: account.Trouble{Failures: 1, Refusals: 2, RetryAt: time.Unix(6, 0).UTC()}, Commit: "c",
	}
	record, err := encodeCredential(full)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{record, []byte(`{}`), []byte(`{"v":99}`), []byte(`{"v":1,"key":"authorizer.wxc.wxb"}`), []byte("\x00"), nil} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeCredential(key, data)
		if err != nil {
			if !errors.Is(err, ErrUnreadable) && !errors.Is(err, ErrNewer) {
				t.Fatalf("an error of another kind: %v", err)
			}
			if !reflect.DeepEqual(c, account.Credential{}) {
				t.Error("something came with the error")
			}
			return
		}
		if c.Key != key || c.Version > recordVersion {
			t.Fatalf("read as the record of %s, version %d", c.Key, c.Version)
		}
		again, err := encodeCredential(c)
		if err != nil {
			t.Fatalf("what was read can't be written: %v", err)
		}
		c2, err := decodeCredential(key, again)
		if err != nil {
			t.Fatalf("what was written can't be read: %v", err)
		}
		third, err := encodeCredential(c2)
		if err != nil || !bytes.Equal(again, third) {
			t.Errorf("not the same once more: %v", err)
		}
	})
}

func TestCredentialRecord(t *testing.T) {
	t.Parallel()
	key := wxtoken.AuthorizerKey("wxc", "wxa")
	for _, row := range []struct {
		record string
		want   error
	}{
		{`{"v":1,"key":"authorizer.wxc.wxa","refresh_token":"SEKRET"}`, nil},
		{`{"v":1,"key":"authorizer.wxc.wxa","brand_new_field":1}`, nil},
		{`{"v":2,"key":"authorizer.wxc.wxa","refresh_token":"SEKRET"}`, ErrNewer},
		{`{"v":2}`, ErrNewer},
		{`{"v":1,"key":"authorizer.wxc.wxb","refresh_token":"SEKRET"}`, ErrUnreadable},
		{`{"v":1,"refresh_token":"SEKRET"}`, ErrUnreadable},
		{`SEKRET`, ErrUnreadable},
		{``, ErrUnreadable},
	} {
		_, err := decodeCredential(key, []byte(row.record))
		if !errors.Is(err, row.want) {
			t.Errorf("%s: %v, want %v", row.record, err, row.want)
		}
		if err != nil && bytes.Contains([]byte(err.Error()), []byte("SEKRET")) {
			t.Errorf("%s: the error shows the record: %v", row.record, err)
		}
	}
}
