// The trial plugin in Go: it does what its configuration says, so that tests can see what the gateway makes of it.
// Its siblings in ../python and ../node have the same configuration.
package main

import (
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/Kong/go-pdk"
	"github.com/Kong/go-pdk/server"
)

// Config says what to do, in this order.
type Config struct {
	Trace   string `json:"trace"`    // added to the upstream's X-Trace header
	Header  string `json:"header"`   // response header to set
	Value   string `json:"value"`    // its value
	DelayMs int    `json:"delay_ms"` // time to wait
	WaitFor string `json:"wait_for"` // file to wait for
	Hang    bool   `json:"hang"`     // never end
	Fail    bool   `json:"fail"`     // panic
	Exit    int    `json:"exit"`     // status to exit with
	Fault   string `json:"fault"`    // what goes wrong otherwise
	LogFile string `json:"log_file"` // file to which the log phase appends "STATUS PATH", of a stream its log entry
	Target  string `json:"target"`   // "ADDRESS:PORT" to which a stream goes instead
}

// New returns an empty configuration.
func New() interface{} { return &Config{} }

// Access does it.
func (conf Config) Access(kong *pdk.PDK) {
	if conf.Fault == "raise first" {
		panic("told to fail")
	}
	if conf.Trace != "" {
		_ = kong.ServiceRequest.AddHeader("X-Trace", conf.Trace)
	}
	if conf.Header != "" {
		_ = kong.Response.SetHeader(conf.Header, conf.Value)
	}
	time.Sleep(time.Duration(conf.DelayMs) * time.Millisecond)
	for conf.WaitFor != "" {
		if _, err := os.Stat(conf.WaitFor); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if conf.Hang {
		time.Sleep(time.Hour)
	}
	switch conf.Fault {
	case "exit process":
		os.Exit(3)
	case "loop":
		for {
			_, _ = kong.Request.GetMethod()
		}
	case "large header":
		_ = kong.Response.SetHeader("X-Large", strings.Repeat("a", 256<<20))
	case "large exit":
		kong.Response.Exit(200, make([]byte, 256<<20), nil)
	}
	if conf.Fail {
		panic("told to fail")
	}
	if conf.Exit != 0 {
		kong.Response.Exit(conf.Exit, []byte("told to exit"), nil)
	}
}

// Preread does it for streams.
func (conf Config) Preread(kong *pdk.PDK) {
	time.Sleep(time.Duration(conf.DelayMs) * time.Millisecond)
	if conf.Hang {
		time.Sleep(time.Hour)
	}
	if conf.Fail {
		panic("told to fail")
	}
	if conf.Target != "" {
		host, port, _ := strings.Cut(conf.Target, ":")
		number, _ := strconv.Atoi(port)
		_ = kong.Service.SetTarget(host, number)
	}
	if conf.Exit != 0 {
		kong.Response.Exit(conf.Exit, []byte("told to exit"), nil)
	}
}

// Log leaves a line for each request.
func (conf Config) Log(kong *pdk.PDK) {
	if conf.LogFile == "" {
		return
	}
	status, _ := kong.Response.GetStatus()
	subsystem, _ := kong.Nginx.GetSubsystem()
	line := strconv.Itoa(status)
	if subsystem == "stream" {
		line, _ = kong.Log.Serialize()
	} else {
		path, _ := kong.Request.GetPath()
		line += " " + path
	}
	file, err := os.OpenFile(conf.LogFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		log.Print(err)
		return
	}
	defer file.Close()
	_, _ = file.WriteString(line + "\n")
}

func main() {
	priority, _ := strconv.Atoi(os.Getenv("TRIAL_PRIORITY"))
	if err := server.StartServer(New, "1.0.0", priority); err != nil {
		log.Fatal(err)
	}
}
