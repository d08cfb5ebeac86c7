package function

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestHandleAnswers(t *testing.T) {
	w := httptest.NewRecorder()
	New().Handle(w, httptest.NewRequest(http.MethodGet, "http://example.com/", nil))
	if w.Code != http.StatusOK || w.Body.String() != "OK\n" {
		t.Fatalf("got %d %q", w.Code, w.Body)
	}
}
