// The calls plugin in Go: it makes the PDK calls that its configuration lists, and writes their answers to a file. Its
// siblings in ../python and ../node have the same configuration.
//
// Built under a name that ends in "-response" it has a response handler too, which makes the gateway hold answers.
package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/Kong/go-pdk"
	"github.com/Kong/go-pdk/server"
)

// Config lists the calls of each phase as JSON, {"access": [["kong.request.get_path"], ...]}, and names the file.
type Config struct {
	Calls string `json:"calls"`
	File  string `json:"file"`
}

// WithResponse is the plugin that has a response handler.
type WithResponse Config

// Rewrite makes the calls of rewrite.
func (conf Config) Rewrite(kong *pdk.PDK) { conf.run(kong, "rewrite") }

// Access makes the calls of access.
func (conf Config) Access(kong *pdk.PDK) { conf.run(kong, "access") }

// Log makes the calls of log.
func (conf Config) Log(kong *pdk.PDK) { conf.run(kong, "log") }

// Rewrite makes the calls of rewrite.
func (conf WithResponse) Rewrite(kong *pdk.PDK) { Config(conf).run(kong, "rewrite") }

// Access makes the calls of access.
func (conf WithResponse) Access(kong *pdk.PDK) { Config(conf).run(kong, "access") }

// Response makes the calls of response.
func (conf WithResponse) Response(kong *pdk.PDK) { Config(conf).run(kong, "response") }

// Log makes the calls of log.
func (conf WithResponse) Log(kong *pdk.PDK) { Config(conf).run(kong, "log") }

func (conf Config) run(kong *pdk.PDK, phase string) {
	var all map[string][][]json.RawMessage
	if err := json.Unmarshal([]byte(conf.Calls), &all); err != nil {
		panic(err)
	}
	calls, listed := all[phase]
	if !listed {
		return
	}
	answers := []interface{}{}
	for _, words := range calls {
		var name string
		if err := json.Unmarshal(words[0], &name); err != nil {
			panic(err)
		}
		value, err := call(kong, name, words[1:])
		answers = append(answers, []interface{}{name, value, err})
	}
	line, err := json.Marshal(map[string]interface{}{"phase": phase, "answers": answers})
	if err != nil {
		panic(err)
	}
	file, err := os.OpenFile(conf.File, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	_, _ = file.Write(append(line, '\n'))
}

// call finds the method for a function of the PDK by its name: kong.service.request.set_path is ServiceRequest.SetPath.
func call(kong *pdk.PDK, name string, args []json.RawMessage) (interface{}, interface{}) {
	if name == "sleep" {
		var milliseconds int
		_ = json.Unmarshal(args[0], &milliseconds)
		time.Sleep(time.Duration(milliseconds) * time.Millisecond)
		return nil, nil
	}
	if name == "wait_for" {
		var file string
		_ = json.Unmarshal(args[0], &file)
		for {
			if _, err := os.Stat(file); err == nil {
				return nil, nil
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	words := strings.Split(strings.TrimPrefix(name, "kong."), ".")
	space, function := strings.Join(words[:len(words)-1], ""), words[len(words)-1]
	if strings.HasPrefix(name, "kong.ctx.shared.") {
		space, function = "ctx", function+"_shared"
	}
	field := reflect.ValueOf(*kong).FieldByNameFunc(func(field string) bool { return strings.EqualFold(field, space) })
	if !field.IsValid() {
		return nil, "no such function"
	}
	wanted := strings.ReplaceAll(function, "_", "")
	for _, suffix := range []string{"", "Any"} {
		for i := 0; i < field.NumMethod(); i++ {
			if strings.EqualFold(field.Type().Method(i).Name, wanted+suffix) {
				return invoke(field.Method(i), args)
			}
		}
	}
	return nil, "no such function"
}

func invoke(method reflect.Value, args []json.RawMessage) (interface{}, interface{}) {
	in := []reflect.Value{}
	for i := range args {
		kind := method.Type()
		var wanted reflect.Type
		switch {
		case kind.IsVariadic() && i >= kind.NumIn()-1:
			wanted = kind.In(kind.NumIn() - 1).Elem()
		case i < kind.NumIn():
			wanted = kind.In(i)
		default:
			return nil, "too many arguments"
		}
		in = append(in, argument(wanted, args[i]))
	}
	if !method.Type().IsVariadic() {
		for i := len(in); i < method.Type().NumIn(); i++ {
			in = append(in, reflect.Zero(method.Type().In(i)))
		}
	}
	var values []interface{}
	var failure interface{}
	for _, out := range method.Call(in) {
		if err, is := out.Interface().(error); is {
			failure = err.Error()
		} else if out.Type().String() != "error" {
			values = append(values, shown(out.Interface()))
		}
	}
	if len(values) == 1 {
		return values[0], failure
	}
	if len(values) == 0 {
		return nil, failure
	}
	return values, failure
}

func argument(wanted reflect.Type, given json.RawMessage) reflect.Value {
	value := reflect.New(wanted)
	if wanted.String() == "[]uint8" {
		var text string
		_ = json.Unmarshal(given, &text)
		value.Elem().SetBytes([]byte(text))
	} else if err := json.Unmarshal(given, value.Interface()); err != nil {
		panic(fmt.Sprintf("%s as %s: %s", given, wanted, err))
	}
	return value.Elem()
}

// shown makes bytes readable: as text, in base64, or as a digest if there are many.
func shown(value interface{}) interface{} {
	switch typed := value.(type) {
	case []byte:
		switch {
		case len(typed) > 65536:
			digest := sha256.Sum256(typed)
			return map[string]interface{}{"sha256": hex.EncodeToString(digest[:]), "length": len(typed)}
		case utf8.Valid(typed):
			return string(typed)
		default:
			return map[string]interface{}{"base64": base64.StdEncoding.EncodeToString(typed)}
		}
	case [][]byte:
		list := []interface{}{}
		for _, item := range typed {
			list = append(list, shown(item))
		}
		return list
	case map[string][]byte:
		fields := map[string]interface{}{}
		for name, item := range typed {
			fields[name] = shown(item)
		}
		return fields
	}
	return value
}

func main() {
	constructor := func() interface{} { return &Config{} }
	if executable, err := os.Executable(); err == nil && strings.HasSuffix(executable, "-response") {
		constructor = func() interface{} { return &WithResponse{} }
	}
	if err := server.StartServer(constructor, "1.0.0", 0); err != nil {
		log.Fatal(err)
	}
}
