module silverback.example/bench/spoe

go 1.21
