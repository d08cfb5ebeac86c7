// Package function takes CloudEvents and may answer with one.
package function

import (
	"fmt"

	"github.com/cloudevents/sdk-go/v2/event"
)

// Function holds what its events share. It may have any name.
type Function struct{}

// New makes the function. It is called once for each instance, before the first event.
func New() *Function {
	return &Function{}
}

// Handle takes an event. Its arguments may be none, a context.Context, an event.Event or both; its results none, an
// error, an *event.Event or both.
func (f *Function) Handle(e event.Event) (*event.Event, error) {
	// YOUR CODE HERE
	fmt.Println("got", e.Type(), "from", e.Source(), string(e.Data()))

	answer := event.New()
	answer.SetID("response-" + e.ID())
	answer.SetSource("function")
	answer.SetType("function.response")
	if err := answer.SetData(event.ApplicationJSON, map[string]string{"message": "OK"}); err != nil {
		return nil, err
	}
	return &answer, nil
}

// Start, Stop, Alive and Ready are optional, as for HTTP functions. A function without state can be one package-level
// Handle instead of New.
