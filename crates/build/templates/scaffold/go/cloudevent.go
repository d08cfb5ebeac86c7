package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
)

// eventMax bounds a request's body in bytes.
const eventMax = 64 << 20

type handler func(context.Context, event.Event) (*event.Event, error)

// adapt makes the function's Handle an HTTP handler that takes and answers CloudEvents.
func adapt(handle interface{}) (http.HandlerFunc, error) {
	call, err := unify(handle)
	if err != nil {
		return nil, err
	}
	return func(w http.ResponseWriter, r *http.Request) {
		e, status, err := read(w, r)
		if err != nil {
			log.Println("function:", err)
			http.Error(w, err.Error(), status)
			return
		}
		result, err := call(r.Context(), e)
		if err != nil {
			log.Println("function:", err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if result == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if err := write(w, *result); err != nil {
			log.Println("function:", err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}, nil
}

// unify accepts every signature that a function may have.
func unify(handle interface{}) (handler, error) {
	switch h := handle.(type) {
	case func():
		return func(context.Context, event.Event) (*event.Event, error) { h(); return nil, nil }, nil
	case func() error:
		return func(context.Context, event.Event) (*event.Event, error) { return nil, h() }, nil
	case func(context.Context):
		return func(c context.Context, _ event.Event) (*event.Event, error) { h(c); return nil, nil }, nil
	case func(context.Context) error:
		return func(c context.Context, _ event.Event) (*event.Event, error) { return nil, h(c) }, nil
	case func(event.Event):
		return func(_ context.Context, e event.Event) (*event.Event, error) { h(e); return nil, nil }, nil
	case func(event.Event) error:
		return func(_ context.Context, e event.Event) (*event.Event, error) { return nil, h(e) }, nil
	case func(context.Context, event.Event):
		return func(c context.Context, e event.Event) (*event.Event, error) { h(c, e); return nil, nil }, nil
	case func(context.Context, event.Event) error:
		return func(c context.Context, e event.Event) (*event.Event, error) { return nil, h(c, e) }, nil
	case func(event.Event) *event.Event:
		return func(_ context.Context, e event.Event) (*event.Event, error) { return h(e), nil }, nil
	case func(event.Event) (*event.Event, error):
		return func(_ context.Context, e event.Event) (*event.Event, error) { return h(e) }, nil
	case func(context.Context, event.Event) *event.Event:
		return func(c context.Context, e event.Event) (*event.Event, error) { return h(c, e), nil }, nil
	case func(context.Context, event.Event) (*event.Event, error):
		return h, nil
	}
	return nil, fmt.Errorf("Handle is %T, which is no signature of an event function", handle)
}

// read takes an event from a request in either content mode.
func read(w http.ResponseWriter, r *http.Request) (event.Event, int, error) {
	e := event.New()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, eventMax))
	if err != nil {
		return e, http.StatusRequestEntityTooLarge, err
	}
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case strings.HasPrefix(media, "application/cloudevents-batch"):
		return e, http.StatusUnsupportedMediaType, fmt.Errorf("batches of events are not supported")
	case strings.HasPrefix(media, "application/cloudevents"):
		if media != "application/cloudevents+json" {
			return e, http.StatusUnsupportedMediaType, fmt.Errorf("the event format %s is not supported", media)
		}
		if err := json.Unmarshal(body, &e); err != nil {
			return e, http.StatusBadRequest, err
		}
	default:
		version := r.Header.Get("Ce-Specversion")
		if version == "" {
			return e, http.StatusBadRequest, fmt.Errorf("the request is no CloudEvent: it has no header ce-specversion")
		}
		e = event.New(version)
		e.SetID(text(r, "Id"))
		e.SetType(text(r, "Type"))
		e.SetSource(text(r, "Source"))
		if subject := text(r, "Subject"); subject != "" {
			e.SetSubject(subject)
		}
		if schema := text(r, "Dataschema"); schema != "" {
			e.SetDataSchema(schema)
		}
		for name := range r.Header {
			key := strings.ToLower(strings.TrimPrefix(name, "Ce-"))
			if !strings.HasPrefix(name, "Ce-") {
				continue
			}
			switch key {
			case "specversion", "id", "type", "source", "subject", "dataschema":
			case "time":
				when, err := time.Parse(time.RFC3339Nano, text(r, "Time"))
				if err != nil {
					return e, http.StatusBadRequest, fmt.Errorf("ce-time: %w", err)
				}
				e.SetTime(when)
			default:
				e.SetExtension(key, text(r, key))
			}
		}
		if len(body) > 0 {
			content := r.Header.Get("Content-Type")
			e.SetDataContentType(content)
			e.DataEncoded = body
		}
	}
	if err := e.Validate(); err != nil {
		return e, http.StatusBadRequest, err
	}
	return e, http.StatusOK, nil
}

func text(r *http.Request, name string) string {
	raw := r.Header.Get("Ce-" + name)
	if plain, err := url.PathUnescape(raw); err == nil {
		return plain
	}
	return raw
}

// write answers with an event in binary mode.
func write(w http.ResponseWriter, e event.Event) error {
	if err := e.Validate(); err != nil {
		return fmt.Errorf("the function's event: %w", err)
	}
	header := w.Header()
	set := func(name, value string) {
		if value != "" {
			header.Set("Ce-"+name, escape(value))
		}
	}
	set("Specversion", e.SpecVersion())
	set("Id", e.ID())
	set("Type", e.Type())
	set("Source", e.Source())
	set("Subject", e.Subject())
	set("Dataschema", e.DataSchema())
	if when := e.Time(); !when.IsZero() {
		set("Time", when.UTC().Format("2006-01-02T15:04:05.999999999Z07:00"))
	}
	for name, value := range e.Extensions() {
		set(name, fmt.Sprint(value))
	}
	if content := e.DataContentType(); content != "" {
		header.Set("Content-Type", content)
	}
	_, err := w.Write(e.Data())
	return err
}

// escape percent-encodes what a header cannot carry.
func escape(value string) string {
	var out strings.Builder
	for _, b := range []byte(value) {
		if b <= ' ' && b != ' ' || b == '"' || b == '%' || b >= 0x7f {
			fmt.Fprintf(&out, "%%%02X", b)
		} else {
			out.WriteByte(b)
		}
	}
	return out.String()
}
