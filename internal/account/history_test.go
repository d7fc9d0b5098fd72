package account

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"wxtoken/client"
)

// TestHistory keeps how the last eight tokens came about, in a few bytes each, and shares nothing with the record before.
func TestHistory(t *testing.T) {
	t.Parallel()
	c := Credential{Key: wxtoken.AuthorizerKey("wxc", "wxa"), RefreshToken: "r"}
	c = c.Authorized(Authorization{CodeDigest: "d", RefreshToken: "r", Token: true, Now: noon, By: "one"})
	if p := c.History[0]; len(c.History) != 1 || p.Generation != 1 || p.Reason != ReasonAuthorized || !p.At.Equal(noon) || p.By != "one" {
		t.Errorf("authorized: %+v", c.History)
	}
	before := c
	for i := range 12 {
		c = c.Renewed("", Past{At: noon.Add(time.Duration(i) * time.Hour), Reason: fmt.Sprint(i), Late: 1500 * time.Millisecond, Took: 40 * time.Millisecond, By: "two", Reporter: "s"})
		other := before.Renewed("", Past{Reason: "another"})
		if other.History[1].Reason != "another" || c.History[len(c.History)-1].Reason != fmt.Sprint(i) {
			t.Fatal("two records share a history")
		}
	}
	if len(c.History) != keptPast || c.History[0].Generation != 6 || c.History[7].Generation != 13 || c.History[7].Reason != "11" {
		t.Errorf("renewed: %+v", c.History)
	}
	data, err := json.Marshal(c.History)
	if err != nil || len(data) > 80*keptPast {
		t.Errorf("%v, %d bytes: %s", err, len(data), data)
	}
	var read []Past
	if err := json.Unmarshal(data, &read); err != nil || len(read) != keptPast || read[7] != c.History[7] {
		t.Errorf("%v %+v", err, read)
	}
	if err := json.Unmarshal([]byte(`[1]`), &read); err == nil {
		t.Error("a number is read as a past")
	}
}
