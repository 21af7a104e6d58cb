add_library(mm_tokenizer_c INTERFACE)
