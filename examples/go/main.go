// Tenant tells the upstream, and the client, on whose behalf a request is made.
//
// It reads the tenant from a request header. A request that names none belongs to the default tenant; without a
// default it is refused.
package main

import (
	"log"

	"github.com/Kong/go-pdk"
	"github.com/Kong/go-pdk/server"
)

const (
	version  = "1.0.0"
	priority = 900
)

// Config is what kong.yml gives under `config`. The schema is inferred from the types; `json` gives the names.
type Config struct {
	Header  string `json:"header"`  // where clients name their tenant; X-Tenant if empty
	Default string `json:"default"` // the tenant of requests that name none
	Forward bool   `json:"forward"` // whether the upstream is told too
}

// New returns an empty configuration; the server fills it in, once for each entry in kong.yml.
func New() interface{} {
	return &Config{}
}

// Access runs before the request goes to the upstream.
func (conf Config) Access(kong *pdk.PDK) {
	name := conf.Header
	if name == "" {
		name = "X-Tenant"
	}

	// An absent header is an error of the PDK call: the default is for it.
	tenant, err := kong.Request.GetHeader(name)
	if err != nil || tenant == "" {
		tenant = conf.Default
	}
	if tenant == "" {
		kong.Response.Exit(400, []byte(`{"message":"the tenant is missing: send `+name+`"}`),
			map[string][]string{"Content-Type": {"application/json"}})
		return
	}

	if conf.Forward {
		if err := kong.ServiceRequest.SetHeader("X-Tenant", tenant); err != nil {
			log.Printf("cannot tell the upstream: %s", err)
		}
	}
	if err := kong.Response.SetHeader("X-Tenant", tenant); err != nil {
		log.Printf("cannot tell the client: %s", err)
	}
}

func main() {
	if err := server.StartServer(New, version, priority); err != nil {
		log.Fatal(err)
	}
}
