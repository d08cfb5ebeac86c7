// Package function answers HTTP requests.
package function

import (
	"fmt"
	"net/http"
)

// Function holds what its requests share: clients, caches, settings. It may have any name.
type Function struct{}

// New makes the function. It is called once for each instance, before the first request.
func New() *Function {
	return &Function{}
}

// Handle answers a request. Requests come at once: what they share needs a lock.
func (f *Function) Handle(w http.ResponseWriter, r *http.Request) {
	// YOUR CODE HERE
	fmt.Fprintln(w, "OK")
}

// All of these are optional:
//
//	Start(ctx context.Context, env map[string]string) error   before the first request, with the environment
//	Stop(ctx context.Context) error                           after the last one
//	Alive(ctx context.Context) (bool, error)                  false: the instance is replaced
//	Ready(ctx context.Context) (bool, error)                  false: it gets no requests
//
// A function without state can be one package-level Handle(w, r) instead of New.
