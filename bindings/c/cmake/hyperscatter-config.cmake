# The targets hyperscatter::hyperscatter (shared) and hyperscatter::static, for
#
#     find_package(hyperscatter REQUIRED)
#     target_link_libraries(trainer PRIVATE hyperscatter::hyperscatter)

get_filename_component(_hyperscatter_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

if(NOT TARGET hyperscatter::hyperscatter)
    add_library(hyperscatter::hyperscatter SHARED IMPORTED)
    set_target_properties(hyperscatter::hyperscatter PROPERTIES
        IMPORTED_LOCATION "${_hyperscatter_prefix}/lib/libhyperscatter_c.so"
        # The library has no name of its own that the linker would write down instead of the path.
        IMPORTED_NO_SONAME TRUE
        INTERFACE_INCLUDE_DIRECTORIES "${_hyperscatter_prefix}/include")

    find_package(Threads REQUIRED)
    add_library(hyperscatter::static STATIC IMPORTED)
    set_target_properties(hyperscatter::static PROPERTIES
        IMPORTED_LOCATION "${_hyperscatter_prefix}/lib/libhyperscatter_c.a"
        INTERFACE_INCLUDE_DIRECTORIES "${_hyperscatter_prefix}/include"
        INTERFACE_LINK_LIBRARIES "Threads::Threads;${CMAKE_DL_LIBS};m;gcc_s")
endif()

unset(_hyperscatter_prefix)
