// The main program of a function: Dormouse lays it over the project when the function is built.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// drainTimeout bounds how long a stop waits for requests in flight.
const drainTimeout = 25 * time.Second

// What a function may have beside Handle.
type starter interface {
	Start(context.Context, map[string]string) error
}
type stopper interface {
	Stop(context.Context) error
}
type aliver interface {
	Alive(context.Context) (bool, error)
}
type readier interface {
	Ready(context.Context) (bool, error)
}

func main() {
	if err := run(); err != nil {
		log.Fatalln("function:", err)
	}
}

func run() error {
	instance, handle := target()
	function, err := adapt(handle)
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	if s, ok := instance.(starter); ok {
		if err := s.Start(ctx, environment()); err != nil {
			return fmt.Errorf("start: %w", err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc(path("LIVENESS_URL", "/health/liveness"), func(w http.ResponseWriter, r *http.Request) {
		if f, ok := instance.(aliver); ok {
			ok, err := f.Alive(r.Context())
			answer(w, ok, err, "ALIVE")
			return
		}
		answer(w, true, nil, "ALIVE")
	})
	mux.HandleFunc(path("READINESS_URL", "/health/readiness"), func(w http.ResponseWriter, r *http.Request) {
		if f, ok := instance.(readier); ok {
			ok, err := f.Ready(r.Context())
			answer(w, ok, err, "READY")
			return
		}
		answer(w, true, nil, "READY")
	})
	mux.HandleFunc("/", guarded(function))
	listener, err := net.Listen("tcp", address())
	if err != nil {
		return err
	}
	log.Println("function: listening on port", listener.Addr().(*net.TCPAddr).Port)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err = <-failed:
	case <-ctx.Done():
		log.Println("function: stopping")
		err = nil
	}
	drain, done := context.WithTimeout(context.Background(), drainTimeout)
	defer done()
	if late := server.Shutdown(drain); late != nil {
		log.Println("function: requests were cut:", late)
	}
	if s, ok := instance.(stopper); ok {
		if stop := s.Stop(drain); stop != nil {
			return errors.New("stop: " + stop.Error())
		}
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// guarded turns a panic into an answer: one bad request must not end the others.
func guarded(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if why := recover(); why != nil {
				if why == http.ErrAbortHandler {
					panic(why)
				}
				log.Printf("function: %s %s: panic: %v", r.Method, r.URL.Path, why)
				http.Error(w, "the function failed", http.StatusInternalServerError)
			}
		}()
		next(w, r)
	}
}

func answer(w http.ResponseWriter, ok bool, err error, text string) {
	switch {
	case err != nil:
		log.Println("function: probe:", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case !ok:
		http.Error(w, "NOT "+text, http.StatusServiceUnavailable)
	default:
		fmt.Fprint(w, text)
	}
}

func address() string {
	if listen := os.Getenv("LISTEN_ADDRESS"); listen != "" {
		return listen
	}
	if port := os.Getenv("PORT"); port != "" {
		return ":" + port
	}
	return ":8080"
}

func path(name, usual string) string {
	if told := os.Getenv(name); strings.HasPrefix(told, "/") {
		return told
	}
	return usual
}

func environment() map[string]string {
	all := map[string]string{}
	for _, entry := range os.Environ() {
		if name, value, ok := strings.Cut(entry, "="); ok {
			all[name] = value
		}
	}
	return all
}
