package main

import (
	"context"
	"fmt"
	"net/http"
)

// adapt makes the function's Handle an HTTP handler.
func adapt(handle interface{}) (http.HandlerFunc, error) {
	switch handle := handle.(type) {
	case func(http.ResponseWriter, *http.Request):
		return handle, nil
	case func(context.Context, http.ResponseWriter, *http.Request):
		return func(w http.ResponseWriter, r *http.Request) { handle(r.Context(), w, r) }, nil
	}
	return nil, fmt.Errorf("Handle is %T; it must be func(http.ResponseWriter, *http.Request)", handle)
}
