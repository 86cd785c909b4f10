// A plugin that makes go-pluginserver ask for every typed step.
package main

import (
	"fmt"

	"github.com/Kong/go-pdk"
)

type Config struct {
	Message string
	Exit    bool
}

func New() interface{} { return &Config{} }

var Version = "1.2"
var Priority = 7

func (c Config) Access(kong *pdk.PDK) {
	out := func(name string, value interface{}, err error) {
		kong.Response.SetHeader("x-"+name, fmt.Sprintf("%v %v", value, err))
	}
	host, err := kong.Request.GetHeader("host")
	out("host", host, err)
	missing, err := kong.Request.GetHeader("missing")
	out("missing", missing, err)
	headers, err := kong.Request.GetHeaders(-1)
	out("headers", headers, err)
	query, err := kong.Request.GetQuery(100)
	out("query", query, err)
	port, err := kong.Request.GetPort()
	out("port", port, err)
	version, err := kong.Request.GetHttpVersion()
	out("version", version, err)
	body, err := kong.Request.GetRawBody()
	out("body", body, err)
	route, err := kong.Router.GetRoute()
	out("route", route.Id+" "+fmt.Sprint(route.Paths), err)
	service, err := kong.Router.GetService()
	out("service", fmt.Sprintf("%s %d", service.Name, service.Port), err)
	consumer, err := kong.Client.GetConsumer()
	out("consumer", consumer.Username, err)
	credential, err := kong.Client.GetCredential()
	out("credential", credential.Id, err)
	stats, err := kong.Node.GetMemoryStats()
	out("stats", stats.LuaSharedDicts.Kong.Capacity, err)
	kong.Log.Warn(c.Message)
	if c.Exit {
		kong.Response.Exit(403, "recorded", map[string][]string{"x-a": {"b"}})
	}
}

func (c Config) Log(kong *pdk.PDK) {}
