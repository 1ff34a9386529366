/* The model, where it lies in flash. PACK is the file's name. */
    .section .rodata.pack
    .balign 16
    .global pack, pack_end
pack:
    .incbin PACK
pack_end:
    .section .note.GNU-stack,"",%progbits
