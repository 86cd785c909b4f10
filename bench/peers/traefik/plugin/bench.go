// Package bench is the Traefik plugin of the bench: it reads one header of the request N times and sets the header x-bench of the answer.
package bench

import (
	"context"
	"net/http"
	"strconv"
)

// Config is what the configuration of the middleware says.
type Config struct {
	Calls int `json:"calls,omitempty"`
}

// CreateConfig is called before the configuration is read.
func CreateConfig() *Config { return &Config{} }

type middleware struct {
	next  http.Handler
	calls int
	value string
}

// New is called once for each middleware.
func New(_ context.Context, next http.Handler, config *Config, _ string) (http.Handler, error) {
	return &middleware{next: next, calls: config.Calls, value: strconv.Itoa(config.Calls)}, nil
}

func (m *middleware) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	for i := 0; i < m.calls; i++ {
		_ = request.Header.Get("User-Agent")
	}
	answer.Header().Set("X-Bench", m.value)
	m.next.ServeHTTP(answer, request)
}
