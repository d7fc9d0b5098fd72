package wechatsim_test

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"
)

func readAll(t *testing.T, response *http.Response) string {
	t.Helper()
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// errcodeIn returns the errcode of an answer, 0 if it has none.
func errcodeIn(t *testing.T, answer string) int {
	t.Helper()
	var refusal struct{ Errcode int }
	if err := json.Unmarshal([]byte(answer), &refusal); err != nil {
		t.Fatalf("%v in %s", err, answer)
	}
	return refusal.Errcode
}
