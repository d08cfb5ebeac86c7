package function

import (
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
)

func TestHandleAnswersWithAnEvent(t *testing.T) {
	e := event.New()
	e.SetID("1")
	e.SetType("test")
	e.SetSource("test")
	if err := e.SetData("text/plain", "data"); err != nil {
		t.Fatal(err)
	}
	answer, err := New().Handle(e)
	if err != nil {
		t.Fatal(err)
	}
	if err := answer.Validate(); err != nil {
		t.Fatal(err)
	}
	if answer.Type() != "function.response" || string(answer.Data()) != `{"message":"OK"}` {
		t.Fatalf("got %s", answer)
	}
}
